//! Crash states: what may be on the disk when the power goes, given the log of the recording disk.
//!
//! The power can go at any moment. Just before a flush completes, and just after an operation was acknowledged, the
//! most is left to chance and the most was promised, so these are the crash points. All that was written before the
//! last completed flush is on the disk, and any subset of what was written since. A write that was logged as one is not
//! torn.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use crate::disk::{Event, Image};
use crate::random::Random;

/// How many random subsets of the writes in flight are taken at every crash point, beside the prefixes and omissions.
const RANDOM_SUBSETS: usize = 12;

/// A moment at which the power may go.
pub struct Point {
    /// Its place in the log: what is logged from here on has not happened.
    pub at: usize,
    /// Whether it is just after an acknowledgement; otherwise it is just before a flush completes.
    acknowledged: bool,
    /// The disk at the last completed flush.
    base: Image,
    /// Where in the log the writes since then are.
    in_flight: Vec<usize>,
}

/// A disk that a crash may leave.
pub struct State {
    /// The crash points at which it is possible.
    pub points: Vec<usize>,
    /// Which of the writes in flight at the first of them are missing, by their places in the log.
    missing: BTreeSet<usize>,
}

/// All that was recorded of one run of a workload.
pub struct Recording {
    pub log: Vec<Event>,
    pub points: Vec<Point>,
    pub states: Vec<State>,
    seed: u64,
}

impl Recording {
    /// The seed decides which random subsets of the writes in flight are among the states.
    pub fn new(start: Image, log: Vec<Event>, seed: u64) -> Self {
        let mut recording = Recording { points: points(start, &log), log, states: Vec::new(), seed };
        recording.enumerate();
        recording
    }

    fn enumerate(&mut self) {
        let mut random = Random::new(self.seed, "subsets");
        let mut known: HashMap<u64, usize> = HashMap::new();
        for (number, point) in self.points.iter().enumerate() {
            for missing in subsets(&point.in_flight, &mut random) {
                let image = self.image_at(point, &missing);
                let state = *known.entry(image.hash()).or_insert_with(|| {
                    self.states.push(State { points: Vec::new(), missing });
                    self.states.len() - 1
                });
                let points = &mut self.states[state].points;
                if points.last() != Some(&number) {
                    points.push(number);
                }
            }
        }
    }

    pub fn image(&self, state: &State) -> Image {
        self.image_at(&self.points[state.points[0]], &state.missing)
    }

    fn image_at(&self, point: &Point, missing: &BTreeSet<usize>) -> Image {
        let mut image = point.base.clone();
        for write in point.in_flight.iter().filter(|write| !missing.contains(write)) {
            apply(&mut image, &self.log[*write]);
        }
        image
    }

    /// `limit` of the states: first one of every crash point just after an acknowledgement, when the most was promised,
    /// then in turn from all crash points, which are so spread evenly if there are more of them.
    pub fn sample(&self, limit: usize) -> Vec<&State> {
        let mut random = Random::new(self.seed, "sample");
        let mut of_points: Vec<Vec<&State>> = self.points.iter().map(|_| Vec::new()).collect();
        for state in &self.states {
            // The last of its points is the one at which the most was promised.
            of_points[state.points[state.points.len() - 1]].push(state);
        }
        for states in &mut of_points {
            random.shuffle(states);
        }
        let acknowledged = of_points.iter_mut().zip(&self.points).filter(|(_, point)| point.acknowledged);
        let mut sample: Vec<&State> = acknowledged.filter_map(|(states, _)| states.pop()).take(limit).collect();
        of_points.retain(|states| !states.is_empty());
        while sample.len() < limit && !of_points.is_empty() {
            let wanted = (limit - sample.len()).min(of_points.len());
            for turn in 0..wanted {
                let point = turn * of_points.len() / wanted;
                sample.extend(of_points[point].pop());
            }
            of_points.retain(|states| !states.is_empty());
        }
        sample
    }

    /// When the power went and what is missing.
    pub fn describe<'a>(&'a self, state: &'a State) -> impl fmt::Display + 'a {
        Description { recording: self, state }
    }

    /// For every operation that was acknowledged, the flushes since it began.
    pub fn flushes(&self) -> Vec<usize> {
        let flushes = |begin: usize, end: usize| {
            self.log[begin..end].iter().filter(|event| matches!(event, Event::Flush)).count()
        };
        let ends = self.log.iter().enumerate().filter_map(|(at, event)| match event {
            Event::Acknowledged(operation) => Some((at, *operation)),
            _ => None,
        });
        ends.map(|(end, operation)| {
            let begin = self.log.iter().position(|event| matches!(event, Event::Begin(number) if *number == operation));
            flushes(begin.expect("what ends has begun"), end)
        })
        .collect()
    }
}

fn points(start: Image, log: &[Event]) -> Vec<Point> {
    let mut points = Vec::new();
    let mut base = start;
    let mut in_flight = Vec::new();
    for (at, event) in log.iter().enumerate() {
        match event {
            Event::Write { .. } => in_flight.push(at),
            Event::Flush => {
                points.push(Point { at, acknowledged: false, base: base.clone(), in_flight: in_flight.clone() });
                for write in in_flight.drain(..) {
                    apply(&mut base, &log[write]);
                }
            }
            Event::Acknowledged(_) => {
                points.push(Point { at: at + 1, acknowledged: true, base: base.clone(), in_flight: in_flight.clone() });
            }
            Event::Begin(_) => {}
        }
    }
    points
}

fn apply(image: &mut Image, event: &Event) {
    if let Event::Write { offset, data } = event {
        image.write(*offset, data);
    }
}

/// What may be missing of `writes`: all prefixes, every single omission, some random subsets.
fn subsets(writes: &[usize], random: &mut Random) -> Vec<BTreeSet<usize>> {
    let mut missing: Vec<BTreeSet<usize>> =
        (0..=writes.len()).map(|end| writes[end..].iter().copied().collect()).collect();
    missing.extend(writes.iter().map(|write| BTreeSet::from([*write])));
    for _ in 0..RANDOM_SUBSETS {
        missing.push(writes.iter().copied().filter(|_| random.coin()).collect());
    }
    missing
}

struct Description<'a> {
    recording: &'a Recording,
    state: &'a State,
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Recording { log, points, .. } = self.recording;
        let (first, last) = (&points[self.state.points[0]], &points[self.state.points[self.state.points.len() - 1]]);
        write!(f, "crash at event {} of {}", first.at, log.len())?;
        if first.at != last.at {
            write!(f, ", or as late as {}", last.at)?;
        }
        f.write_str("; operations:")?;
        for (at, event) in log[..last.at].iter().enumerate() {
            match event {
                Event::Begin(operation) => write!(f, " {operation} begins at {at},")?,
                Event::Acknowledged(operation) => write!(f, " {operation} ends at {at},")?,
                Event::Flush | Event::Write { .. } => {}
            }
        }
        write!(f, " in flight at {} (offset+length):", first.at)?;
        for write in &first.in_flight {
            if let Event::Write { offset, data } = &log[*write] {
                let missing = if self.state.missing.contains(write) { " MISSING" } else { "" };
                write!(f, " {offset:#x}+{:#x}{missing}", data.len())?;
            }
        }
        Ok(())
    }
}
