//! Crash states: the possible contents of the disk when the power goes, from the log of the recording disk.
//!
//! The power can go at any moment. The crash points are the moments just before a flush completes, and just after an
//! operation was acknowledged: there, most is undecided and most was promised. Everything that was written before the
//! last completed flush is on the disk, and any subset of the later writes. A write that was logged as one is not torn.
//!
//! A flush that failed, or that the device only reported as done, makes nothing durable. A write that failed may be on
//! the disk or not, and no later flush changes that.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use crate::disk::{Event, Image};
use crate::random::Random;

/// How many random subsets of the writes in flight are taken at every crash point, beside the prefixes and omissions.
const RANDOM_SUBSETS: usize = 12;

/// A moment at which the power may go.
pub struct Point {
    /// Its place in the log. Later entries have not happened.
    pub at: usize,
    /// Whether it is just after an acknowledgement. Otherwise it is just before the end of a flush.
    acknowledged: bool,
    /// The disk at the last completed flush, without failed writes.
    base: Image,
    /// The places in the log of the writes that may be on the disk or not: those after that flush, and the failed ones.
    in_flight: Vec<usize>,
    /// The place of that flush in the log.
    flushed: usize,
}

/// A disk that a crash may leave.
pub struct State {
    /// The crash points at which this state is possible.
    pub points: Vec<usize>,
    /// The missing writes among those in flight at the first of these points, by their places in the log.
    missing: BTreeSet<usize>,
}

/// What happens to a device's cache when a flush fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// The next flush that is done writes it to the disk.
    Kept,
    /// It may be lost, even if a later flush is done.
    Lost,
}

/// The recording of one run of a workload.
pub struct Recording {
    start: Image,
    pub log: Vec<Event>,
    pub points: Vec<Point>,
    pub states: Vec<State>,
    seed: u64,
}

impl Recording {
    /// The seed decides which random subsets of the writes in flight are states.
    pub fn new(start: Image, log: Vec<Event>, seed: u64) -> Self {
        Self::with_cache(start, log, seed, Cache::Kept)
    }

    /// The same, for a device whose cache behaves like this when a flush fails.
    pub fn with_cache(start: Image, log: Vec<Event>, seed: u64, cache: Cache) -> Self {
        let points = points(start.clone(), &log, cache);
        let mut recording = Recording { start, log, points, states: Vec::new(), seed };
        recording.enumerate(0);
        recording
    }

    /// The same, with only the crash points after this place in the log.
    pub fn since(start: Image, log: Vec<Event>, at: usize, seed: u64) -> Self {
        let points = points(start.clone(), &log, Cache::Kept);
        let mut recording = Recording { start, log, points, states: Vec::new(), seed };
        recording.enumerate(at);
        recording
    }

    fn enumerate(&mut self, since: usize) {
        let mut random = Random::new(self.seed, "subsets");
        let mut known: HashMap<u64, usize> = HashMap::new();
        for (number, point) in self.points.iter().enumerate().filter(|(_, point)| point.at > since) {
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
        for &write in point.in_flight.iter().filter(|write| !missing.contains(write)) {
            apply(&mut image, &self.log[write]);
            // It is older than the flushed writes, and they overwrite it.
            let durable = |later: &usize| point.in_flight.binary_search(later).is_err();
            for later in (write + 1..point.flushed).filter(durable) {
                apply_over(&mut image, &self.log[later], &self.log[write]);
            }
        }
        image
    }

    /// The disk at the end of the log, without a power cut. Either all failed writes have happened, or none.
    pub fn at_the_end(&self, failed_writes: bool) -> Image {
        let mut image = self.start.clone();
        let happened = |event: &&Event| failed_writes || !matches!(event, Event::FailedWrite { .. });
        self.log.iter().filter(happened).for_each(|event| apply(&mut image, event));
        image
    }

    /// `limit` of the states. First one of every crash point just after an acknowledgement, where the most was
    /// promised. Then some from all crash points in turn, spread evenly if there are more of them.
    pub fn sample(&self, limit: usize) -> Vec<&State> {
        let mut random = Random::new(self.seed, "sample");
        let mut of_points: Vec<Vec<&State>> = self.points.iter().map(|_| Vec::new()).collect();
        for state in &self.states {
            // The most was promised at the last of its points.
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

    /// Says when the power went and which writes are missing.
    pub fn describe<'a>(&'a self, state: &'a State) -> impl fmt::Display + 'a {
        Description { recording: self, state }
    }

    /// Lists all operations and failures.
    pub fn operations(&self) -> impl fmt::Display + '_ {
        Operations(self)
    }

    /// For every acknowledged operation, the flushes since it began.
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
            flushes(begin.expect("an operation must begin before it ends"), end)
        })
        .collect()
    }
}

fn points(start: Image, log: &[Event], cache: Cache) -> Vec<Point> {
    let mut points = Vec::new();
    let mut base = start;
    // The writes that a flush makes durable, and those that no flush does.
    let (mut cached, mut doubtful) = (Vec::new(), Vec::new());
    let mut flushed = 0;
    for (at, event) in log.iter().enumerate() {
        let is_flush = matches!(event, Event::Flush | Event::FailedFlush | Event::DroppedFlush);
        let acknowledged = matches!(event, Event::Acknowledged(_));
        if is_flush || acknowledged || matches!(event, Event::Failed(_)) {
            let mut in_flight: Vec<usize> = cached.iter().chain(&doubtful).copied().collect();
            in_flight.sort_unstable();
            let at = if is_flush { at } else { at + 1 };
            points.push(Point { at, acknowledged, base: base.clone(), in_flight, flushed });
        }
        match event {
            Event::Write { .. } => cached.push(at),
            Event::FailedWrite { .. } => doubtful.push(at),
            Event::Flush => {
                cached.drain(..).for_each(|write| apply(&mut base, &log[write]));
                flushed = at;
            }
            Event::FailedFlush if cache == Cache::Lost => doubtful.append(&mut cached),
            Event::FailedFlush | Event::DroppedFlush => {}
            Event::Begin(_) | Event::Acknowledged(_) | Event::Failed(_) => {}
        }
    }
    points
}

/// The place and the bytes of an event that writes.
fn written(event: &Event) -> Option<(u64, &[u8])> {
    match event {
        Event::Write { offset, data } | Event::FailedWrite { offset, data } => Some((*offset, data)),
        _ => None,
    }
}

fn apply(image: &mut Image, event: &Event) {
    if let Some((offset, data)) = written(event) {
        image.write(offset, data);
    }
}

/// Applies an event only where `under` has written, too.
fn apply_over(image: &mut Image, event: &Event, under: &Event) {
    let (Some((offset, data)), Some((from, under))) = (written(event), written(under)) else { return };
    let (start, end) = (offset.max(from), (offset + data.len() as u64).min(from + under.len() as u64));
    if start < end {
        image.write(start, &data[(start - offset) as usize..(end - offset) as usize]);
    }
}

/// The subsets of `writes` that may be missing: after every prefix, every single one, and some at random.
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
        list(f, &log[..last.at])?;
        write!(f, " in flight at {} (offset+length):", first.at)?;
        for write in &first.in_flight {
            if let Some((offset, data)) = written(&log[*write]) {
                let missing = if self.state.missing.contains(write) { " MISSING" } else { "" };
                write!(f, " {offset:#x}+{:#x}{missing}", data.len())?;
            }
        }
        Ok(())
    }
}

/// The operations and the failures.
fn list(f: &mut fmt::Formatter<'_>, log: &[Event]) -> fmt::Result {
    for (at, event) in log.iter().enumerate() {
        match event {
            Event::Begin(operation) => write!(f, " {operation} begins at {at},")?,
            Event::Acknowledged(operation) => write!(f, " {operation} ends at {at},")?,
            Event::Failed(operation) => write!(f, " {operation} fails at {at},")?,
            Event::FailedFlush => write!(f, " a flush fails at {at},")?,
            Event::FailedWrite { offset, .. } => write!(f, " a write to {offset:#x} fails at {at},")?,
            Event::Flush | Event::DroppedFlush | Event::Write { .. } => {}
        }
    }
    Ok(())
}

struct Operations<'a>(&'a Recording);

impl fmt::Display for Operations<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.0.log)
    }
}
