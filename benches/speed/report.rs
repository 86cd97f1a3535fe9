//! The numbers as a table in Markdown and as a chart.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub struct Measured {
    pub contest: &'static str,
    /// The seconds of one operation, one value for each round.
    pub ways: Vec<(&'static str, Vec<f64>)>,
}

impl Measured {
    fn seconds(&self, way: &str) -> Option<&[f64]> {
        Some(&self.ways.iter().find(|(name, _)| *name == way)?.1)
    }

    /// The median over the rounds of this way's time as a multiple of another way's time.
    fn ratio(&self, way: &str, other: &str) -> Option<f64> {
        Some(median(self.seconds(way)?.iter().zip(self.seconds(other)?).map(|(one, other)| one / other)))
    }
}

pub fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    percentile(50, numbers)
}

pub fn percentile(percent: usize, numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() * percent / 100]
}

pub fn print(measured: &[Measured], targets: &[(&str, &str, f64, &str)], dir: &Path) {
    println!("\n{} {RATIO}\n\n{}", circumstances(dir), table(measured));
    println!("| target | at most | of the time of | took | |\n|---|--:|---|--:|---|");
    for (contest, way, limit, other) in targets {
        let one = measured.iter().find(|one| one.contest == *contest);
        if let Some(ratio) = one.and_then(|one| one.ratio(way, other)) {
            let met = if ratio <= *limit { "met" } else { "NOT MET" };
            println!("| {contest}: {way} | {limit:.2} | {other} | {ratio:.2} | {met} |");
        }
    }
}

fn table(measured: &[Measured]) -> String {
    let mut table = String::from("| | time | ratio |\n|---|--:|--:|\n");
    for one in measured {
        let (first, _) = one.ways[0];
        writeln!(table, "| **{}** | | |", one.contest).unwrap();
        for (way, seconds) in &one.ways {
            let (time, ratio) = (median(seconds.iter().copied()), one.ratio(way, first).unwrap_or(1.0));
            writeln!(table, "| {way} | {} | {ratio:.2} |", time_text(time)).unwrap();
        }
    }
    table
}

pub fn time_text(seconds: f64) -> String {
    if seconds < 1e-3 { format!("{:.1} us", seconds * 1e6) } else { format!("{:.1} ms", seconds * 1e3) }
}

/// The date, the commit, the machine and the directory of the measurement.
pub fn circumstances(dir: &Path) -> String {
    let says = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().map(|output| output.stdout);
        String::from_utf8_lossy(&output.unwrap_or_default()).trim().to_owned()
    };
    let system = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, commit {}, {} {}, {cores} cores, {}, `cargo bench`.",
        says("date", &["+%F"]),
        says("git", &["rev-parse", "--short", "HEAD"]),
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        file_system(dir)
    )
}

/// The type of the file system of `dir`: that of the mount with the longest path above it.
fn file_system(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let above = fields.filter(|fields| fields.len() > 2 && dir.starts_with(fields[1]));
    // Of two mounts at one place, the later one covers the earlier.
    above.max_by_key(|fields| fields[1].len()).map_or("an unknown file system".into(), |fields| fields[2].into())
}

/// Draws the chart. With `BENCH_SAVE`, also keeps it and puts the table into `src/docs/speed.md`.
pub fn save(measured: &[Measured], dir: &Path) {
    chart(measured, &place_of("chart.svg")).unwrap();
    into_the_page("", &format!("{} {RATIO}\n\n{}", circumstances(dir), table(measured)));
}

const RATIO: &str = "The ratio is that of the times, to the first of each part.";

fn is_to_save() -> bool {
    env::var_os("BENCH_SAVE").is_some()
}

/// The path of a picture. If pictures are saved, it is beside the others.
pub fn place_of(picture: &str) -> PathBuf {
    let dir = if is_to_save() {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches")
    } else {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
    };
    let path = dir.join(picture);
    println!("\npicture: {}", path.display());
    path
}

/// With `BENCH_SAVE`, puts a text between its marks in `src/docs/speed.md`.
pub fn into_the_page(name: &str, text: &str) {
    if !is_to_save() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/docs/speed.md");
    let page = fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- {name}written by `BENCH_SAVE=1 cargo bench` -->\n");
    let (before, rest) = page.split_once(&begin).expect("the text's place in the page");
    let (_, after) = rest.split_once(END).expect("the text's end in the page");
    fs::write(path, [before, &begin, text, END, after].concat()).unwrap();
}

const END: &str = "<!-- end -->";

const WIDTH: i32 = 760;
const LINE: i32 = 20;
const LEFT: i32 = 210;
/// The longest bar. Longer ones are cut, and have their number as text.
const MOST: f64 = 5.0;

/// Bars of the ratios of writes and reads.
fn chart(measured: &[Measured], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let shown: Vec<_> = measured.iter().filter(|one| ["write", "read", "update"].contains(&one.contest)).collect();
    let lines: usize = shown.iter().map(|one| one.ways.len() + 2).sum();
    let area = SVGBackend::new(path, (WIDTH as u32, (lines as i32 * LINE) as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |style: FontStyle| ("sans-serif", 16).into_font().style(style);
    let right = Pos::new(HPos::Right, VPos::Center);
    let left = Pos::new(HPos::Left, VPos::Center);
    let mut y = LINE;
    for one in shown {
        let (first, _) = one.ways[0];
        let title = format!("{}, 4 KiB (time; {first} = 1; bars end at {MOST})", one.contest);
        area.draw(&Text::new(title, (10, y), font(FontStyle::Bold).into_text_style(&area).pos(left)))?;
        y += LINE;
        for (way, _) in &one.ways {
            let ratio = one.ratio(way, first).unwrap_or(1.0);
            let end = LEFT + (f64::from(WIDTH - LEFT - 60) * ratio.min(MOST) / MOST) as i32;
            let colour = if way.starts_with("ours") { RGBColor(31, 119, 180) } else { RGBColor(170, 170, 170) };
            let style = font(FontStyle::Normal).into_text_style(&area);
            area.draw(&Text::new((*way).to_owned(), (LEFT - 8, y), style.pos(right)))?;
            area.draw(&Rectangle::new([(LEFT, y - 7), (end, y + 7)], colour.filled()))?;
            area.draw(&Text::new(format!("{ratio:.2}"), (end + 6, y), style.pos(left)))?;
            y += LINE;
        }
        y += LINE;
    }
    area.present()?;
    Ok(())
}
