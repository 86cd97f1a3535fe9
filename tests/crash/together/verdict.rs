//! The verdict on a crash state: all files are old or all are new, and a finished change leaves nothing behind.

use atomic_file_adapter::Durability;

use crate::together::changes::{Reached, TWO, Versions, Workload};
use crate::together::look::{Pending, Seen};

/// The fault of a state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A file is not a version that was begun.
    Torn(String),
    /// Files that are changed as one are of different changes.
    Half(String),
    /// The files are of a change before an acknowledged one, or of another change than before the second crash.
    Lost(String),
    /// The crate cannot read the files, or a change stays unfinished.
    Stuck(String),
    /// Leftovers, files that cannot be swept, an impossible state, or the file system itself.
    Other(String),
}

/// The promise for a state.
pub struct Promise<'a> {
    pub workload: &'a Workload,
    pub durability: Durability,
    /// The progress at each of the moments at which the state is possible.
    pub reached: &'a [Reached],
    /// The versions that were read before a second crash.
    pub known: Option<&'a Versions>,
}

impl Promise<'_> {
    pub fn faults(&self, seen: &Seen) -> Vec<Fault> {
        if let Some(broken) = &seen.broken {
            return vec![Fault::Other(broken.clone())];
        }
        let found = match seen.read.as_ref().expect("a state that is not broken was read") {
            Ok(found) => found,
            Err(error) => return vec![Fault::Stuck(error.clone())],
        };
        let mut faults = match self.durability {
            Durability::Full => self.together(seen, found),
            _ => self.one_by_one(found),
        };
        // Without syncs there may be an intent that no mark leads to.
        let left = if self.durability == Durability::Full { &seen.left } else { &seen.unrecovered };
        if !left.is_none() {
            faults.push(Fault::Stuck(format!("left to be finished: {left:?}")));
        }
        faults.extend(seen.unswept.iter().cloned().map(Fault::Other));
        if self.known.is_some_and(|known| known != found) {
            faults.push(Fault::Lost("it is not what was read before the second crash".to_owned()));
        }
        faults
    }

    /// All files are of one change. It was begun, and is not older than an acknowledged one.
    fn together(&self, seen: &Seen, found: &Versions) -> Vec<Fault> {
        let begun = self.reached.iter().map(|reached| reached.begun).min().unwrap_or(0);
        let acknowledged = self.reached.iter().map(|reached| reached.acknowledged).max().unwrap_or(0);
        let Some(change) = (0..=begun).find(|change| self.workload.version(*change) == *found) else {
            let of = self.changes_of(found, begun);
            let torn: Vec<&String> = of.iter().filter_map(|of| of.as_ref().err()).collect();
            if !torn.is_empty() {
                return vec![Fault::Torn(format!("{torn:?}"))];
            }
            let of: Vec<Vec<usize>> = of.into_iter().flatten().collect();
            return vec![Fault::Half(format!("of which changes each file is: {of:?}"))];
        };
        let mut faults = Vec::new();
        if change < acknowledged {
            faults.push(Fault::Lost(format!("it is change {change}, though {acknowledged} was acknowledged")));
        }
        // A killed process may have left some before its change was decided. The next process has made the same change.
        for (path, contents) in seen.temporary.iter().filter(|_| self.workload.killed == 0) {
            // A torn one is of a change that was never decided, so that change must have begun.
            if title_of(contents).map_or(begun == change, |number| number <= change) {
                faults.push(Fault::Other(format!("{} is there, though change {change} is done", path.display())));
            }
        }
        faults
    }

    /// Each file is a version that was begun.
    fn one_by_one(&self, found: &Versions) -> Vec<Fault> {
        let begun = self.reached.iter().map(|reached| reached.begun).min().unwrap_or(0);
        self.changes_of(found, begun).into_iter().filter_map(|of| of.err().map(Fault::Torn)).collect()
    }

    /// For each file, the changes that it may be of, or its fault.
    fn changes_of(&self, found: &Versions, begun: usize) -> Vec<std::result::Result<Vec<usize>, String>> {
        let versions: Vec<Versions> = (0..=begun).map(|change| self.workload.version(change)).collect();
        let of = |n: usize| -> Vec<usize> {
            versions
                .iter()
                .enumerate()
                .filter(|(_, version)| version[n] == found[n])
                .map(|(change, _)| change)
                .collect()
        };
        let paths = self.workload.paths();
        (0..found.len())
            .map(|n| match of(n) {
                of if of.is_empty() => {
                    let contents = found[n].as_deref();
                    let title = contents.map(|contents| String::from_utf8_lossy(&contents[..contents.len().min(40)]));
                    let length = contents.map(<[u8]>::len);
                    Err(format!("{} has {length:?} bytes that begin with {title:?}", paths[n].display()))
                }
                of => Ok(of),
            })
            .collect()
    }
}

/// The change of a file, if its contents tell it.
fn title_of(contents: &[u8]) -> Option<usize> {
    let line = contents.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.split_once(", version ")?.1.split_once(',')?.0.parse().ok()
}

/// Tests the judge, without a disk.
pub fn tells_all_from_half() {
    let workload = &TWO;
    let reached = |acknowledged, begun| [Reached { acknowledged, begun }];
    let seen = |read: Versions| Seen { read: Some(Ok(read)), ..Seen::default() };
    let faults = |durability, reached: &[Reached], known: Option<usize>, seen: &Seen| {
        let known = known.map(|change| workload.version(change));
        Promise { workload, durability, reached, known: known.as_ref() }.faults(seen)
    };
    let full = |reached: &[Reached], seen: &Seen| faults(Durability::Full, reached, None, seen);
    let ordered = |reached: &[Reached], seen: &Seen| faults(Durability::Ordered, reached, None, seen);
    let of = |change| seen(workload.version(change));

    // Before, while and after the second change is made.
    assert_eq!(full(&reached(1, 1), &of(1)), []);
    assert_eq!(full(&reached(1, 2), &of(1)), []);
    assert_eq!(full(&reached(1, 2), &of(2)), []);
    assert_eq!(full(&reached(2, 2), &of(2)), []);
    assert!(matches!(full(&reached(2, 2), &of(1))[..], [Fault::Lost(_)]));
    assert_eq!(ordered(&reached(2, 2), &of(1)), []);
    // A version that is not written yet, or an old one at all of these moments.
    assert!(matches!(full(&reached(1, 1), &of(2))[..], [Fault::Torn(_)]));
    assert!(matches!(full(&[reached(1, 2), reached(2, 2)].concat(), &of(1))[..], [Fault::Lost(_)]));

    // A file of another change, a missing file, or one that is cut short.
    let (one, two) = (workload.version(1), workload.version(2));
    let half = seen(vec![two[0].clone(), one[1].clone()]);
    assert!(matches!(full(&reached(1, 2), &half)[..], [Fault::Half(_)]));
    assert_eq!(ordered(&reached(1, 2), &half), []);
    let missing = seen(vec![None, one[1].clone()]);
    assert!(matches!(full(&reached(1, 2), &missing)[..], [Fault::Half(_)]));
    let torn = seen(vec![one[0].as_ref().map(|it| it[..100].to_vec()), one[1].clone()]);
    assert!(matches!(full(&reached(1, 2), &torn)[..], [Fault::Torn(_)]));
    assert!(matches!(ordered(&reached(1, 2), &torn)[..], [Fault::Torn(_)]));

    // Another change after a second crash.
    assert_eq!(faults(Durability::Full, &reached(1, 2), Some(1), &of(1)), []);
    assert!(matches!(faults(Durability::Full, &reached(1, 2), Some(2), &of(1))[..], [Fault::Lost(_)]));

    // The temporary files that are left.
    let left = |contents: Option<Vec<u8>>| Seen { temporary: vec![("a/.t".into(), contents.unwrap())], ..of(1) };
    assert!(matches!(full(&reached(1, 2), &left(one[0].clone()))[..], [Fault::Other(_)]));
    assert_eq!(full(&reached(1, 2), &left(two[0].clone())), []);
    assert_eq!(full(&reached(1, 2), &left(Some(vec![0; 6000]))), []);
    assert!(matches!(full(&reached(1, 1), &left(Some(vec![0; 6000])))[..], [Fault::Other(_)]));
    let unswept = Seen { unswept: vec!["it".to_owned()], ..of(1) };
    assert!(matches!(full(&reached(1, 1), &unswept)[..], [Fault::Other(_)]));
    let intent = Pending { intents: vec!["it".to_owned()], marked: Vec::new() };
    let mark = Pending { intents: Vec::new(), marked: vec!["it".to_owned()] };
    for left in [intent, mark] {
        assert!(matches!(full(&reached(1, 1), &Seen { left, ..of(1) })[..], [Fault::Stuck(_)]));
    }
    let unread = Seen { read: Some(Err("it".to_owned())), ..Seen::default() };
    assert!(matches!(full(&reached(1, 1), &unread)[..], [Fault::Stuck(_)]));
}
