//! The verdict on a crash state. Mounts it, looks at it, unmounts and checks it. Then compares it with the permitted
//! states.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crash_lab::disk::Event;
use crash_lab::states::{Recording, State};
use crash_lab::verdict::{self, Fault, Times};
use crash_lab::viewer::Viewer;

use crate::common::temporary_name;
use crate::workloads::{Attributes, History, Version, attributes_of, is_expected};

/// The promise of a workload.
pub struct Promise<'a> {
    pub history: &'a History,
    /// The most temporary files in one directory.
    pub leftovers: usize,
}

/// The contents of a state.
pub struct Seen {
    nodes: BTreeMap<PathBuf, Node>,
    /// The errors of the file system.
    broken: Option<String>,
}

enum Node {
    File { mode: u32, attributes: Attributes, contents: Vec<u8> },
    Other,
}

/// Looks at everything.
pub fn look(viewer: &mut Viewer, recording: &Recording, state: &State) -> Seen {
    let mut nodes = BTreeMap::new();
    let looked = viewer.look(&recording.image(state), true, |root| walk(root, Path::new(""), &mut nodes));
    Seen { nodes, broken: looked.err() }
}

fn walk(root: &Path, dir: &Path, nodes: &mut BTreeMap<PathBuf, Node>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(dir))? {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        let metadata = entry.metadata()?;
        let node = if metadata.is_file() {
            let mode = metadata.permissions().mode() & 0o7777;
            let named = |error| io::Error::other(format!("{}: {error}", path.display()));
            let contents = fs::read(entry.path()).map_err(named)?;
            let attributes = match attributes_of(&entry.path()) {
                // f2fs recovers a file whose sync was not over, perhaps without the block of its attributes (Linux 6.1, EUCLEAN).
                // Nobody needs it, and so it must be possible to remove it.
                Err(_) if is_left_over(&path) => fs::remove_file(entry.path()).map(|()| Vec::new()),
                attributes => attributes,
            };
            Node::File { mode, attributes: attributes.map_err(named)?, contents }
        } else {
            Node::Other
        };
        nodes.insert(path.clone(), node);
        if metadata.is_dir() {
            walk(root, &path, nodes)?;
        }
    }
    Ok(())
}

/// Whether a temporary file has such a name.
fn is_left_over(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && name.ends_with(".tmp")
}

impl Seen {
    /// The faults, if the crash happened after this part of the log.
    pub fn faults(&self, promise: &Promise<'_>, log: &[Event]) -> Vec<Fault> {
        if let Some(broken) = &self.broken {
            return vec![Fault::Other(broken.clone())];
        }
        let times = Times::new(log);
        let mut faults: Vec<Fault> =
            promise.history.files.iter().flat_map(|(path, versions)| self.file(&times, path, versions)).collect();
        faults.extend(self.leftovers(promise.history, promise.leftovers));
        faults
    }

    fn file(&self, times: &Times, path: &Path, versions: &[Version]) -> Vec<Fault> {
        let name = path.display();
        let (given, found) = match self.nodes.get(path) {
            None => (None, None),
            Some(Node::File { mode, attributes, contents }) => (Some((*mode, attributes)), Some(contents)),
            Some(Node::Other) => return vec![Fault::Torn(format!("{name} is not a file"))],
        };
        let known: Vec<verdict::Version> = versions
            .iter()
            .map(|version| verdict::Version { contents: version.contents.as_deref(), operation: version.operation })
            .collect();
        let (same, fault) = times.judge(&name.to_string(), &known, found.map(Vec::as_slice));
        let Some((mode, attributes)) = given.filter(|_| !same.is_empty()) else { return fault.into_iter().collect() };
        let is_right = |same: &usize| versions[*same].mode == mode && versions[*same].attributes == *attributes;
        let right: Vec<usize> = same.into_iter().filter(is_right).collect();
        if right.is_empty() {
            let names: Vec<&CString> = attributes.iter().map(|(name, _)| name).collect();
            let wrong = Fault::Other(format!("{name} has mode {mode:o} and attributes {names:?}"));
            return fault.into_iter().chain([wrong]).collect();
        }
        // Where versions differ in their mode alone, what has the old one is lost, too.
        times.lost(&name.to_string(), &known, &right).into_iter().collect()
    }

    /// Files that should not be there.
    fn leftovers(&self, history: &History, most: usize) -> Vec<Fault> {
        let mut temporary: HashMap<&Path, usize> = HashMap::new();
        let mut faults = Vec::new();
        for path in self.nodes.keys() {
            let expected = is_expected(path) || history.files.keys().any(|file| file.starts_with(path));
            if expected {
                continue;
            }
            match history.files.keys().find(|file| is_temporary(path, file)) {
                Some(_) => *temporary.entry(path.parent().unwrap()).or_default() += 1,
                None => faults.push(Fault::Other(format!("{} is there", path.display()))),
            }
        }
        let too_many = temporary.into_iter().filter(|(_, count)| *count > most);
        faults.extend(
            too_many.map(|(dir, count)| Fault::Other(format!("{count} temporary files in /{}", dir.display()))),
        );
        faults
    }
}

/// Whether `path` is a temporary file of `file`: `.{name}.{7 digits}{check}.tmp` in the same directory.
pub fn is_temporary(path: &Path, file: &Path) -> bool {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let (path_name, file_name) = (name(path), name(file));
    let random = path_name.strip_prefix(&format!(".{file_name}.")).and_then(|rest| rest.get(..7));
    path.parent() == file.parent() && random.is_some_and(|random| path_name == temporary_name(&file_name, random))
}

/// Tests the judge, without a disk.
pub fn tells_good_from_bad() {
    let attributes = |value: &str| vec![(c"user.key".to_owned(), value.into())];
    let version = |contents: Option<&str>, operation| Version {
        contents: contents.map(|contents| contents.into()),
        mode: 0o640,
        attributes: attributes("value"),
        operation,
    };
    let versions = vec![version(None, None), version(Some("one"), Some(0)), version(Some("two"), Some(1))];
    let mut history = History::default();
    history.files.insert("file".into(), versions);
    let promise = Promise { history: &history, leftovers: 1 };
    let node = |mode, contents: &str| Node::File { mode, attributes: attributes("value"), contents: contents.into() };
    let faults = |nodes: Vec<(&str, Node)>, log: &[Event]| {
        let nodes = nodes.into_iter().map(|(path, node)| (path.into(), node)).collect();
        Seen { nodes, broken: None }.faults(&promise, log)
    };
    let log = [Event::Begin(0), Event::Acknowledged(0), Event::Begin(1), Event::Acknowledged(1)];

    // Before, while and after the second version is written.
    assert_eq!(faults(vec![("file", node(0o640, "one"))], &log[..2]), []);
    assert_eq!(faults(vec![("file", node(0o640, "one"))], &log[..3]), []);
    assert_eq!(faults(vec![("file", node(0o640, "two"))], &log[..3]), []);
    assert_eq!(faults(vec![("file", node(0o640, "two"))], &log), []);
    assert!(matches!(faults(vec![("file", node(0o640, "two"))], &log[..2])[..], [Fault::Torn(_)]));
    assert!(matches!(faults(vec![("file", node(0o640, "one"))], &log)[..], [Fault::Lost(_)]));
    assert!(matches!(faults(vec![], &log[..2])[..], [Fault::Lost(_)]));
    assert_eq!(faults(vec![], &log[..1]), []);

    // A version that differs in its mode only.
    let mut modes = History::default();
    let one = |mode, operation| Version { mode, ..version(Some("one"), operation) };
    modes.files.insert("file".into(), vec![one(0o640, None), one(0o600, Some(0))]);
    let modes = Promise { history: &modes, leftovers: 1 };
    let after = |mode, log: &[Event]| {
        Seen { nodes: BTreeMap::from([("file".into(), node(mode, "one"))]), broken: None }.faults(&modes, log)
    };
    assert_eq!((after(0o640, &log[..1]), after(0o600, &log[..1])), (vec![], vec![]));
    assert_eq!(after(0o600, &log[..2]), []);
    assert!(matches!(after(0o640, &log[..2])[..], [Fault::Lost(_)]));

    // With two writers at once, either order is right.
    let both = [Event::Begin(0), Event::Begin(1), Event::Acknowledged(1), Event::Acknowledged(0)];
    assert_eq!(faults(vec![("file", node(0o640, "one"))], &both), []);
    assert_eq!(faults(vec![("file", node(0o640, "two"))], &both), []);

    // Modes, attributes and leftovers.
    for wrong in [vec![], attributes("other")] {
        let node = Node::File { mode: 0o640, attributes: wrong, contents: "two".into() };
        assert!(matches!(faults(vec![("file", node)], &log)[..], [Fault::Other(_)]));
    }
    assert!(matches!(faults(vec![("file", node(0o600, "two"))], &log)[..], [Fault::Other(_)]));
    let left = |names: &[&str]| {
        let mut nodes = vec![("file", node(0o640, "two"))];
        nodes.extend(names.iter().map(|name| (*name, node(0o640, ""))));
        faults(nodes, &log)
    };
    let [one, other] = ["abcdefg", "hijklmn"].map(|random| temporary_name("file", random));
    assert_eq!(left(&[&one]), []);
    assert!(matches!(left(&[&one, &other])[..], [Fault::Other(_)]));
    assert!(matches!(left(&[".file.abcdefghij.tmp"])[..], [Fault::Other(_)]));
    assert!(matches!(left(&[".file.tmp"])[..], [Fault::Other(_)]));
}
