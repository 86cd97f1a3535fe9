//! What a power cut may leave of a file, or of anything else that has one value at a time: a version that was begun,
//! and not one that an acknowledged version has replaced.

use std::collections::HashMap;

use crate::disk::Event;

/// The fault of a state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is not a version that was begun.
    Torn(String),
    /// It is a version that an acknowledged version has replaced.
    Lost(String),
    /// Anything else: the file system itself, a mode, a leftover.
    Other(String),
}

/// A version of the value.
#[derive(Debug, Clone, Copy)]
pub struct Version<'a> {
    /// `None`: the file does not exist, for example before it is made.
    pub contents: Option<&'a [u8]>,
    /// The operation that makes this version. `None`: it existed before.
    pub operation: Option<usize>,
}

/// When the operations began and ended.
pub struct Times {
    begin: HashMap<usize, usize>,
    end: HashMap<usize, usize>,
}

impl Times {
    /// From the part of the log before the crash.
    pub fn new(log: &[Event]) -> Self {
        let mut times = Times { begin: HashMap::new(), end: HashMap::new() };
        for (at, event) in log.iter().enumerate() {
            match event {
                Event::Begin(operation) => times.begin.insert(*operation, at),
                Event::Acknowledged(operation) => times.end.insert(*operation, at),
                _ => None,
            };
        }
        times
    }

    fn begun(&self, version: &Version) -> bool {
        version.operation.is_none_or(|operation| self.begin.contains_key(&operation))
    }

    /// Whether the operation of `old` ended before that of `new` began, and the latter has ended, too.
    fn superseded(&self, old: &Version, new: &Version) -> bool {
        let Some(new) = new.operation.filter(|new| self.end.contains_key(new)) else { return false };
        old.operation.is_none_or(|old| self.end.get(&old).is_some_and(|end| *end < self.begin[&new]))
    }

    /// The numbers of the versions that `found` may be, and the fault if it has one. `name` is for the message.
    pub fn judge(&self, name: &str, versions: &[Version], found: Option<&[u8]>) -> (Vec<usize>, Option<Fault>) {
        let same: Vec<usize> = (0..versions.len())
            .filter(|number| self.begun(&versions[*number]) && versions[*number].contents == found)
            .collect();
        if same.is_empty() {
            return (same, Some(Fault::Torn(format!("{name} is {}", describe(found)))));
        }
        let lost = self.lost(name, versions, &same);
        (same, lost)
    }

    /// What is wrong if one of these versions is there: each of them has been superseded.
    pub fn lost(&self, name: &str, versions: &[Version], these: &[usize]) -> Option<Fault> {
        let superseding = |old: &usize| {
            (0..versions.len())
                .rfind(|new| self.begun(&versions[*new]) && self.superseded(&versions[*old], &versions[*new]))
        };
        let newer: Option<Vec<usize>> = these.iter().map(superseding).collect();
        let (old, new) = (*these.first()?, *newer?.first()?);
        Some(Fault::Lost(format!("{name} is version {old}, though {new} was acknowledged")))
    }
}

/// Describes the value in a few words.
pub fn describe(found: Option<&[u8]>) -> String {
    let Some(contents) = found else { return "missing".to_owned() };
    let title: String = String::from_utf8_lossy(&contents[..contents.len().min(200)])
        .chars()
        .take_while(|char| *char != '\n')
        .filter(|c| !c.is_control())
        .take(60)
        .collect();
    let zeros = contents.iter().filter(|byte| **byte == 0).count();
    format!("{} bytes, {zeros} of them zero, that begin with {title:?}", contents.len())
}
