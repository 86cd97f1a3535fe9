//! The report: a table for people, and JSON for programs.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use crash_lab::device::Device;
use serde_json::{Value, json};

use crate::args::{Args, Chosen, States, name_of};
use crate::judged::{Judged, kind, what};
use crate::workload::{Commits, Workload};

/// How many bad states are described in the table's text.
const DESCRIBED: usize = 6;

pub struct Report {
    pub chosen: Chosen,
    pub judged: Vec<Judged>,
}

/// The sum of rows of the table.
#[derive(Default)]
struct Sum {
    states: usize,
    possible: usize,
    torn: usize,
    lost: usize,
    broken: usize,
    bad_states: usize,
}

impl Sum {
    fn of<'a>(judged: impl IntoIterator<Item = &'a Judged>) -> Self {
        judged.into_iter().fold(Sum::default(), |sum, judged| Sum {
            states: sum.states + judged.states,
            possible: sum.possible + judged.possible,
            torn: sum.torn + judged.torn,
            lost: sum.lost + judged.lost,
            broken: sum.broken + judged.broken,
            bad_states: sum.bad_states + judged.bad_states,
        })
    }

    fn columns(&self) -> [String; 5] {
        [self.states, self.possible, self.torn, self.lost, self.broken].map(|number| number.to_string())
    }

    fn json(&self) -> Value {
        let Sum { states, possible, torn, lost, broken, bad_states } = self;
        json!({
            "states": states, "possible": possible, "torn": torn, "lost": lost, "broken": broken, "bad_states": bad_states,
        })
    }
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.judged.iter().all(|judged| judged.bad.is_empty())
    }

    pub fn publish(&self, args: &Args) -> Result<(), String> {
        let json = || format!("{:#}\n", self.json(args));
        let to_stdout = args.json.as_deref() == Some(Path::new("-"));
        let text = if to_stdout { json() } else { self.text(args) };
        io::stdout().write_all(text.as_bytes()).map_err(|error| format!("standard output: {error}"))?;
        match args.json.as_deref() {
            Some(file) if !to_stdout => fs::write(file, json()).map_err(|error| format!("{}: {error}", file.display())),
            _ => Ok(()),
        }
    }

    fn json(&self, args: &Args) -> Value {
        let results: Vec<Value> = self
            .judged
            .iter()
            .map(|judged| {
                let mut row = Sum::of([judged]).json();
                row["file_system"] = json!(judged.file_system);
                row["workload"] = json!(judged.workload.to_string());
                row["commits"] = json!(judged.commits.to_string());
                row["failed_requests"] = json!(judged.failed);
                row["flushes"] = json!(judged.flushes);
                row
            })
            .collect();
        let bad: Vec<Value> = self
            .judged
            .iter()
            .flat_map(|judged| judged.bad.iter().map(move |bad| (judged, bad)))
            .map(|(judged, bad)| {
                json!({
                    "file_system": judged.file_system,
                    "workload": judged.workload.to_string(),
                    "commits": judged.commits.to_string(),
                    "fault": kind(&bad.fault),
                    "what": what(&bad.fault),
                    "state": bad.state,
                    "kept": bad.kept,
                })
            })
            .collect();
        let file_systems: Vec<Value> = self
            .chosen
            .judged
            .iter()
            .map(|(name, file_system)| {
                json!({
                    "name": name,
                    "kind": file_system.kind,
                    "mkfs": file_system.mkfs.join(" "),
                    "mount_options": file_system.options,
                    "fsck": file_system.check.join(" "),
                    "megabytes": file_system.megabytes,
                })
            })
            .collect();
        let left_out: Vec<Value> =
            self.chosen.left_out.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": kernel(),
            "command": args.command,
            "prepare": args.prepare,
            "read": args.read,
            "device": name_of(args.device),
            "seed": args.seed,
            "states_of_each_recording": match args.states {
                States::Full => json!("full"),
                States::Some(number) => json!(number),
            },
            "good": self.is_good(),
            "total": Sum::of(&self.judged).json(),
            "file_systems": file_systems,
            "left_out": left_out,
            "results": results,
            "bad": bad,
        })
    }

    fn text(&self, args: &Args) -> String {
        let mut text = format!("{}\nseed {}, Linux {}\n", args.command, args.seed, kernel());
        let failed: usize = self.judged.iter().map(|judged| judged.failed).sum();
        match args.device {
            Device::Sound => {}
            Device::Lies => text += "the disk lies: it does not flush\n",
            Device::Fails(_) => {
                let _ = writeln!(text, "the disk fails ({}): {failed} requests in all", name_of(args.device));
            }
        }
        for (name, file_system) in &self.chosen.judged {
            let or_none = |text: String| if text.is_empty() { "nothing".to_owned() } else { text };
            let (mkfs, options) = (file_system.mkfs.join(" "), or_none(file_system.options.to_owned()));
            let _ = writeln!(
                text,
                "{name}: {mkfs}; mounted with {options}; checked by {}",
                or_none(file_system.check.join(" "))
            );
        }
        for (name, why) in &self.chosen.left_out {
            let _ = writeln!(text, "{name}: left out, {why}");
        }
        text += "\n";
        text += &self.table();
        let sum = Sum::of(&self.judged);
        if self.is_good() {
            let _ = writeln!(text, "\nNo bad state was found in {} states.", sum.states);
            return text;
        }
        let _ = writeln!(text, "\n{} of {} states are bad. Some of them:", sum.bad_states, sum.states);
        // The kept states, and one of each kind and file system.
        let mut told = Vec::new();
        for judged in &self.judged {
            for bad in &judged.bad {
                let of = (&judged.file_system, kind(&bad.fault));
                if told.contains(&of) || told.len() == DESCRIBED {
                    continue;
                }
                told.push(of);
                let Judged { file_system, workload, commits, .. } = judged;
                let _ = writeln!(text, "\n{}: {file_system}, {workload}, commits {commits}", kind(&bad.fault));
                let _ = writeln!(
                    text,
                    "    {}\n    {}",
                    what(&bad.fault).trim().replace('\n', "\n    "),
                    shortened(&bad.state)
                );
                if let Some(kept) = &bad.kept {
                    let _ = writeln!(text, "    kept in {}", kept.display());
                }
            }
        }
        let kept = self.judged.iter().flat_map(|judged| &judged.bad).filter(|bad| bad.kept.is_some()).count();
        match &args.keep {
            Some(dir) => {
                let _ = writeln!(text, "\n{kept} states are kept in {}; see the README.txt of each.", dir.display());
            }
            None => text += "\n--keep DIR keeps a disk of each kind.\n",
        }
        text
    }

    /// A row for each file system and workload.
    fn table(&self) -> String {
        let mut rows =
            vec![["file system", "workload", "states", "of", "torn", "lost", "broken", "flushes"].map(str::to_owned)];
        let mut keys: Vec<(&String, Workload)> = Vec::new();
        for judged in &self.judged {
            let key = (&judged.file_system, judged.workload);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let row = |name: &str, workload: &str, sum: &Sum, flushes: String| {
            let [states, possible, torn, lost, broken] = sum.columns();
            [name.to_owned(), workload.to_owned(), states, possible, torn, lost, broken, flushes]
        };
        for (name, workload) in keys {
            let of = || self.judged.iter().filter(|judged| (&judged.file_system, judged.workload) == (name, workload));
            let alone = of().find(|judged| judged.commits == Commits::None);
            let flushes =
                alone.map(|judged| judged.flushes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            rows.push(row(name, &workload.to_string(), &Sum::of(of()), flushes.unwrap_or_default()));
        }
        rows.push(row("all", "", &Sum::of(&self.judged), String::new()));
        let widths: Vec<usize> =
            (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
        let mut text = String::new();
        for row in rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Names are aligned to the left, numbers to the right.
                let _ = if column < 2 || column == 7 {
                    write!(line, "{cell:<width$}  ")
                } else {
                    write!(line, "{cell:>width$}  ")
                };
            }
            text += line.trim_end();
            text += "\n";
        }
        text
    }
}

/// The JSON has the whole text.
fn shortened(state: &str) -> String {
    const MOST: usize = 400;
    if state.len() <= MOST { state.to_owned() } else { format!("{}...", &state[..MOST]) }
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
