//! The operations of the sequences, and the list of all sequences.

use std::fmt;

use crate::generated::model::Model;

/// The directories. Each has one file.
pub const DIRECTORIES: [&str; 2] = ["a", "b"];
/// The names of the files.
pub const FILES: [&str; 2] = ["one", "two"];

/// The longest sequences.
pub const LONGEST: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Create,
    /// A write of a larger version.
    Larger,
    Smaller,
    Delete,
    Update,
    /// A write through a symbolic link in the root directory.
    Link,
    /// A write into a directory that does not exist.
    NewDirectory,
    /// A write with a handle from before the sequence, whose directory was renamed or removed.
    Handle,
    /// Done by another program.
    RenameDir,
    RemoveDir,
    /// Both files, each on its own.
    Batch,
    /// Writes this file, and deletes the other one.
    BatchDelete,
    /// Both files as one.
    Together,
    TogetherDelete,
}

const VERBS: [(Verb, &str); 14] = [
    (Verb::Create, "create"),
    (Verb::Larger, "larger"),
    (Verb::Smaller, "smaller"),
    (Verb::Delete, "delete"),
    (Verb::Update, "update"),
    (Verb::Link, "link"),
    (Verb::NewDirectory, "new-directory"),
    (Verb::Handle, "handle"),
    (Verb::RenameDir, "rename-dir"),
    (Verb::RemoveDir, "remove-dir"),
    (Verb::Batch, "batch"),
    (Verb::BatchDelete, "batch-delete"),
    (Verb::Together, "together"),
    (Verb::TogetherDelete, "together-delete"),
];

/// `file` is 0 or 1. It is 0 if the operation treats both files alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    pub verb: Verb,
    pub file: usize,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = VERBS.iter().find(|(verb, _)| *verb == self.verb).map_or("", |(_, name)| *name);
        f.write_str(name)?;
        if self.is_about_both() { Ok(()) } else { write!(f, ":{}", DIRECTORIES[self.file]) }
    }
}

/// Operations, one after the other, in the words of a report.
pub struct Sequence<'a>(pub &'a [Operation]);

impl fmt::Display for Sequence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operations: Vec<String> = self.0.iter().map(Operation::to_string).collect();
        f.write_str(&operations.join(" "))
    }
}

/// What exists of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Presence {
    NoDirectory,
    NoFile,
    File,
}

/// What exists of each file before a sequence.
pub type Layout = [Presence; 2];

impl Operation {
    pub fn all() -> impl Iterator<Item = Self> {
        let of_verb = |(verb, _): (Verb, &str)| [0, 1].map(|file| Operation { verb, file });
        VERBS.into_iter().flat_map(of_verb).filter(|operation| operation.file == 0 || !operation.is_about_both())
    }

    /// The reverse of `Sequence`'s `Display`.
    pub fn sequence(words: &str) -> Option<Vec<Self>> {
        words.split_whitespace().map(|word| Self::all().find(|operation| operation.to_string() == word)).collect()
    }

    fn is_about_both(self) -> bool {
        matches!(self.verb, Verb::Batch | Verb::Together)
    }

    pub fn is_by_another(self) -> bool {
        matches!(self.verb, Verb::RenameDir | Verb::RemoveDir)
    }

    pub fn is_together(self) -> bool {
        matches!(self.verb, Verb::Together | Verb::TogetherDelete)
    }

    /// The files that the crate writes or deletes in it.
    pub fn files(self) -> Vec<usize> {
        match self.verb {
            Verb::Batch | Verb::Together | Verb::BatchDelete | Verb::TogetherDelete => vec![0, 1],
            Verb::RenameDir | Verb::RemoveDir => vec![],
            _ => vec![self.file],
        }
    }

    /// The same operation on the other file.
    fn mirrored(self) -> Self {
        if self.is_about_both() { self } else { Operation { file: 1 - self.file, ..self } }
    }

    /// What must exist of this file before the operation, if it is the first one on that file.
    fn needs(self, file: usize) -> Option<Presence> {
        let is_mine = file == self.file;
        match self.verb {
            Verb::Create if is_mine => Some(Presence::NoFile),
            Verb::NewDirectory if is_mine => Some(Presence::NoDirectory),
            // One file is replaced, and one is new.
            Verb::Batch | Verb::Together => Some(if is_mine { Presence::File } else { Presence::NoFile }),
            Verb::BatchDelete | Verb::TogetherDelete => Some(if is_mine { Presence::NoFile } else { Presence::File }),
            _ => is_mine.then_some(Presence::File),
        }
    }

    /// Whether the operation is possible, and differs from the other verbs at this point.
    fn makes_sense(self, model: &Model) -> bool {
        let there = model.presence(self.file);
        match self.verb {
            Verb::Create => there == Presence::NoFile,
            Verb::Larger | Verb::Smaller | Verb::Update => there == Presence::File,
            // Or there is nothing to delete, because another program has moved the directory away.
            Verb::Delete => there == Presence::File || there == Presence::NoDirectory && model.was_moved(self.file),
            Verb::NewDirectory => there == Presence::NoDirectory,
            Verb::Link | Verb::RenameDir | Verb::RemoveDir => there != Presence::NoDirectory,
            Verb::Handle => model.was_moved(self.file),
            Verb::Batch | Verb::Together => true,
            Verb::BatchDelete | Verb::TogetherDelete => model.presence(1 - self.file) == Presence::File,
        }
    }
}

/// What exists before a sequence: what the first operation on each file needs. A file without operations exists.
pub fn layout(operations: &[Operation]) -> Layout {
    [0, 1].map(|file| operations.iter().find_map(|operation| operation.needs(file)).unwrap_or(Presence::File))
}

/// All sequences, the shortest first. Of a sequence and its mirror image only one is taken. A sequence needs a call of
/// the crate, and each of its operations must make sense.
pub fn all() -> Vec<Vec<Operation>> {
    let mut all = Vec::new();
    let mut longer: Vec<Vec<Operation>> = vec![Vec::new()];
    for _ in 0..LONGEST {
        let next = |sequence: &Vec<Operation>| {
            Operation::all().map(|operation| [&sequence[..], &[operation]].concat()).collect::<Vec<_>>()
        };
        longer = longer.iter().flat_map(next).filter(|sequence| is_possible(sequence)).collect();
        all.extend(longer.iter().filter(|sequence| is_wanted(sequence)).cloned());
    }
    all
}

fn is_possible(sequence: &[Operation]) -> bool {
    let mut model = Model::new(layout(sequence));
    sequence.iter().all(|operation| {
        let makes_sense = operation.makes_sense(&model);
        if makes_sense {
            model.make(*operation);
        }
        makes_sense
    })
}

fn is_wanted(sequence: &[Operation]) -> bool {
    let mirrored = mirrored(sequence);
    let [a, b] = layout(&mirrored);
    let is_mirrored = is_possible(&mirrored) && layout(sequence) == [b, a];
    let is_first = sequence <= &mirrored[..] || !is_mirrored;
    is_first && sequence.iter().any(|operation| !operation.is_by_another())
}

fn mirrored(sequence: &[Operation]) -> Vec<Operation> {
    sequence.iter().map(|operation| operation.mirrored()).collect()
}

/// Tests the enumeration.
pub fn are_all_there() {
    let all = all();
    let is_there = |words: &str| all.contains(&Operation::sequence(words).unwrap());
    assert!(is_there("create:a") && !is_there("create:b"));
    assert!(is_there("larger:a smaller:b") && !is_there("larger:b smaller:a"));
    assert!(is_there("larger:a rename-dir:a new-directory:a") && !is_there("larger:a rename-dir:a create:a"));
    assert!(is_there("rename-dir:a handle:a") && !is_there("larger:a handle:a"));
    assert!(is_there("batch") && is_there("together-delete:a batch-delete:b together"));
    assert!(!is_there("rename-dir:a") && !is_there("remove-dir:a rename-dir:b"));
    assert!(!is_there("delete:a larger:a") && is_there("delete:a create:a delete:a"));
    for sequence in &all {
        assert_eq!(Operation::sequence(&Sequence(sequence).to_string()).as_ref(), Some(sequence));
        // The beginning is judged in the sequence that ends there.
        let beginning = &sequence[..sequence.len() - 1];
        let is_judged = [beginning.to_vec(), mirrored(beginning)].iter().any(|beginning| all.contains(beginning));
        assert!(is_judged || beginning.iter().all(|operation| operation.is_by_another()), "{}", Sequence(sequence));
    }
    assert_eq!(all.len(), all.iter().collect::<std::collections::BTreeSet<_>>().len());
    let of_length = |length| all.iter().filter(|sequence| sequence.len() == length).count();
    assert_eq!([1, 2, 3].map(of_length), [11, 265, 4748]);
}
