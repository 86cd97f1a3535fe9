//! The curves as a table in Markdown.

use std::fmt::Write;
use std::path::Path;

use super::growth::grouped;
use super::{Curve, Point, TARGETS, Target, Unit, picture};
use crate::report::{circumstances, into_the_page, place_of, time_text};

pub fn print(curves: &[Curve], dir: &Path) {
    println!("\n{}\n\n{}", circumstances(dir), table(curves));
    println!("| target | | measured | |\n|---|--:|--:|---|");
    for (name, target) in TARGETS {
        if let Some(curve) = curves.iter().find(|curve| curve.name == *name) {
            let (limit, measured, met) = judged(curve, target);
            println!("| {name} | {limit} | {measured} | {} |", if met { "met" } else { "NOT MET" });
        }
    }
}

/// The target, the value at the worst point, and whether that is good enough.
fn judged(curve: &Curve, target: &Target) -> (String, String, bool) {
    let ours = || curve.points.iter().map(Point::ours);
    let times: Vec<f64> = curve.points.iter().filter_map(Point::ratio).collect();
    match target {
        Target::AtMost(limit) => {
            let most = ours().fold(f64::MIN, f64::max);
            (format!("at most {}", text(*limit, curve.unit)), text(most, curve.unit), most <= *limit)
        }
        Target::FirstAtMost(limit) => {
            let first = curve.points[0].ours();
            (format!("at most {}", text(*limit, curve.unit)), text(first, curve.unit), first <= *limit)
        }
        Target::AtLeast(limit) => {
            let least = ours().fold(f64::MAX, f64::min);
            (format!("at least {}", text(*limit, curve.unit)), text(least, curve.unit), least >= *limit)
        }
        Target::TimesBare(limit) => {
            let most = times.into_iter().fold(f64::MIN, f64::max);
            (format!("at most {limit:.2} times the bare calls"), format!("{most:.2}"), most <= *limit)
        }
        Target::Flat => {
            let grown = times[times.len() - 1] / times[0];
            ("flat".into(), format!("the last is {grown:.2} times the first"), grown <= 1.1)
        }
    }
}

/// Draws the picture. With `BENCH_SAVE`, also keeps it and puts the table into `src/docs/speed.md`.
pub fn save(curves: &[Curve], dir: &Path) {
    picture::draw(curves, &place_of("curves.svg")).unwrap();
    into_the_page("the curves, ", &format!("{}\n\n{}", circumstances(dir), table(curves)));
}

fn table(curves: &[Curve]) -> String {
    let mut table = String::from("| curve | at | ours | bare or std | ratio |\n|---|---|--:|--:|--:|\n");
    for curve in curves {
        for (n, point) in curve.points.iter().enumerate() {
            let name = if n == 0 { curve.name } else { "" };
            let bare = point.bare().map_or(String::new(), |bare| text(bare, curve.unit));
            let ratio = point.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
            writeln!(table, "| {name} | {} | {} | {bare} | {ratio} |", point.at, text(point.ours(), curve.unit))
                .unwrap();
        }
    }
    table
}

fn text(number: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds if number < 10e-6 => format!("{:.2} us", number * 1e6),
        Unit::Seconds => time_text(number),
        Unit::Share => format!("{number:.2}"),
        Unit::Number => grouped(number.round() as usize),
        Unit::PerCent => format!("{:.2}%", number * 100.0),
    }
}
