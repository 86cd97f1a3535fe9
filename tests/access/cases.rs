//! All combinations of modes, access ACLs, directories, writers and verbs.

use std::env;
use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::common::acl::{Acl, Tag};
use crate::users::{GROUP, GROUP_NAMED_BY_DEFAULT, NAMED, NAMED_BY_DEFAULT, NAMED_GROUP, OTHER_GROUP, OWNER, User};

pub(crate) const MODES: [u32; 20] = [
    0o600, 0o640, 0o644, 0o660, 0o604, 0o606, 0o666, 0o664, 0o440, 0o404, 0o044, 0o077, 0o070, 0o007, 0o755, 0o711,
    0o4755, 0o2755, 0o6711, 0o1644,
];

/// The access ACL of the file. Without another entry, owner, group, others and mask have the mode's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    None,
    NamedUserMayWriteTheGroupMayNothing,
    NamedUserMayNothing,
    GroupMayNothingUnderAWideMask,
    NamedGroupMayWrite,
    NamedGroupMayNothing,
    NamedGroupIsTheGroup,
    MaskNarrowerThanEntries,
    MaskOfNothing,
    OwnerIsNamed,
    OwnerIsNamedAndMayNothing,
    WritersGroupIsNamed,
    WritersGroupMayNothing,
}

impl Access {
    pub(crate) const ALL: [Self; 13] = [
        Access::None,
        Access::NamedUserMayWriteTheGroupMayNothing,
        Access::NamedUserMayNothing,
        Access::GroupMayNothingUnderAWideMask,
        Access::NamedGroupMayWrite,
        Access::NamedGroupMayNothing,
        Access::NamedGroupIsTheGroup,
        Access::MaskNarrowerThanEntries,
        Access::MaskOfNothing,
        Access::OwnerIsNamed,
        Access::OwnerIsNamedAndMayNothing,
        Access::WritersGroupIsNamed,
        Access::WritersGroupMayNothing,
    ];

    pub(crate) fn of_file(self, mode: u32, writers_group: u32) -> Option<Acl> {
        let [owner, group, others] = [6, 3, 0].map(|shift| (mode >> shift) & 7);
        let acl = |named: &[(Tag, u32)], group: u32, mask: u32| {
            let base = [(Tag::UserObj, owner), (Tag::GroupObj, group), (Tag::Mask, mask), (Tag::Other, others)];
            Some(Acl::new(&[named, &base[..]].concat()))
        };
        match self {
            Access::None => None,
            Access::NamedUserMayWriteTheGroupMayNothing => acl(&[(Tag::User(NAMED), 6)], 0, 6),
            Access::NamedUserMayNothing => acl(&[(Tag::User(NAMED), 0)], group, group),
            Access::GroupMayNothingUnderAWideMask => acl(&[], 0, 6),
            Access::NamedGroupMayWrite => acl(&[(Tag::Group(NAMED_GROUP), 6)], group, 7),
            Access::NamedGroupMayNothing => acl(&[(Tag::Group(NAMED_GROUP), 0)], group, 7),
            Access::NamedGroupIsTheGroup => acl(&[(Tag::Group(GROUP), 6)], 0, 6),
            Access::MaskNarrowerThanEntries => acl(&[(Tag::User(NAMED), 7), (Tag::Group(NAMED_GROUP), 7)], 7, 4),
            Access::MaskOfNothing => acl(&[(Tag::User(NAMED), 6), (Tag::Group(NAMED_GROUP), 6)], 6, 0),
            Access::OwnerIsNamed => acl(&[(Tag::User(OWNER), 6)], group, 7),
            Access::OwnerIsNamedAndMayNothing => acl(&[(Tag::User(OWNER), 0)], group, 7),
            Access::WritersGroupIsNamed => acl(&[(Tag::Group(writers_group), 6)], group, 7),
            Access::WritersGroupMayNothing => acl(&[(Tag::Group(writers_group), 0)], group, 7),
        }
    }
}

/// The directory: its default ACL, or anything else that new files inherit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directory {
    Plain,
    DefaultNamesAUser,
    DefaultNamesAGroup,
    DefaultShutsTheGroupOut,
    DefaultLetsOthersIn,
    DefaultHasANarrowMask,
    GivesItsGroup,
}

impl Directory {
    pub(crate) const ALL: [Self; 7] = [
        Directory::Plain,
        Directory::DefaultNamesAUser,
        Directory::DefaultNamesAGroup,
        Directory::DefaultShutsTheGroupOut,
        Directory::DefaultLetsOthersIn,
        Directory::DefaultHasANarrowMask,
        Directory::GivesItsGroup,
    ];

    pub(crate) fn default_acl(self) -> Option<Acl> {
        let acl = |named: &[(Tag, u32)], [group, mask, others]: [u32; 3]| {
            let base = [(Tag::UserObj, 7), (Tag::GroupObj, group), (Tag::Mask, mask), (Tag::Other, others)];
            Some(Acl::new(&[named, &base[..]].concat()))
        };
        match self {
            Directory::Plain | Directory::GivesItsGroup => None,
            Directory::DefaultNamesAUser => acl(&[(Tag::User(NAMED_BY_DEFAULT), 6)], [5, 7, 5]),
            Directory::DefaultNamesAGroup => acl(&[(Tag::Group(GROUP_NAMED_BY_DEFAULT), 6)], [7, 7, 0]),
            Directory::DefaultShutsTheGroupOut => {
                Some(Acl::new(&[(Tag::UserObj, 7), (Tag::GroupObj, 0), (Tag::Other, 7)]))
            }
            Directory::DefaultLetsOthersIn => acl(&[(Tag::User(NAMED_BY_DEFAULT), 0)], [0, 7, 7]),
            Directory::DefaultHasANarrowMask => acl(&[(Tag::User(NAMED_BY_DEFAULT), 7)], [7, 4, 0]),
        }
    }

    /// The group of a directory with the setgid bit.
    pub(crate) fn group(self) -> Option<u32> {
        (self == Directory::GivesItsGroup).then_some(OTHER_GROUP)
    }
}

/// A way to make a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Write,
    Writer,
    Update,
    Batch,
}

impl Verb {
    pub(crate) const ALL: [Self; 4] = [Verb::Write, Verb::Writer, Verb::Update, Verb::Batch];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    Owner,
    OwnerOutsideTheGroup,
    Member,
    Stranger,
    Root,
    RootWithoutChown,
}

impl Writer {
    pub(crate) const ALL: [Self; 6] = [
        Writer::Owner,
        Writer::OwnerOutsideTheGroup,
        Writer::Member,
        Writer::Stranger,
        Writer::Root,
        Writer::RootWithoutChown,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Writer::Owner => "the owner",
            Writer::OwnerOutsideTheGroup => "the owner, not in the group",
            Writer::Member => "a member of the group",
            Writer::Stranger => "a stranger who may write the directory",
            Writer::Root => "root",
            Writer::RootWithoutChown => "root without CAP_CHOWN",
        }
    }

    pub(crate) fn user(self) -> User {
        match self {
            Writer::Owner => User::new(self.name(), OWNER, &[GROUP]),
            Writer::OwnerOutsideTheGroup => User::new(self.name(), OWNER, &[]),
            Writer::Member => User::new(self.name(), 7102, &[GROUP]),
            Writer::Stranger => User::new(self.name(), 7109, &[]),
            Writer::Root | Writer::RootWithoutChown => User::new(self.name(), 0, &[]),
        }
    }

    /// Whether this verb may keep all rights and attributes.
    pub(crate) fn keeps_everything(self) -> bool {
        matches!(self, Writer::Owner | Writer::Root)
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) mode: u32,
    pub(crate) access: Access,
    pub(crate) directory: Directory,
    pub(crate) verb: Verb,
    /// The file has a user attribute, too.
    pub(crate) labelled: bool,
    pub(crate) umask: u32,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { mode, access, directory, verb, labelled, umask } = self;
        let labelled = if *labelled { ", a user attribute" } else { "" };
        write!(f, "{mode:04o}, {access:?}, directory {directory:?}{labelled}, {verb:?}, umask {umask:03o}")
    }
}

/// All cases in an order that depends only on `ACCESS_SEED`, so that the first ones are a random sample.
pub(crate) fn shuffled(salt: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in MODES {
        for access in Access::ALL {
            for directory in Directory::ALL {
                for verb in Verb::ALL {
                    let seed = env::var("ACCESS_SEED").unwrap_or_default();
                    let random = xxh3_64(format!("{seed} {salt} {mode} {access:?} {directory:?} {verb:?}").as_bytes());
                    // Usually without a umask, because that hides modes that are too wide.
                    let umask = [0, 0, 0o022, 0o077][(random & 3) as usize];
                    let labelled = random & 0b11100 == 0;
                    cases.push((random, Case { mode, access, directory, verb, labelled, umask }));
                }
            }
        }
    }
    cases.sort_by_key(|(random, _)| *random);
    cases.into_iter().map(|(_, case)| case).collect()
}
