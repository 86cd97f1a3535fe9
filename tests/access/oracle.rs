//! The oracle: who may open a file, by the rules of acl(5), "ACCESS CHECK ALGORITHM". They are those of POSIX.1e, with
//! one difference of Linux. At each look the table asks the kernel whether the oracle is right.
//!
//! The difference: if the mask has no bits, Linux does not look at the ACL (`acl_permission_check` in fs/namei.c:
//! `IS_POSIXACL(inode) && (mode & S_IRWXG)`). Then named users and groups have the rights of others. In POSIX.1e they
//! have none.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::acl::{ACCESS, Acl, Tag, attribute};
use crate::users::User;

/// Everything that decides who may open a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Protection {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The twelve bits of `chmod`.
    pub(crate) mode: u32,
    pub(crate) acl: Option<Acl>,
}

impl Protection {
    /// Read from the kernel.
    pub(crate) fn of(path: &Path) -> Self {
        let meta = path.metadata().unwrap();
        let acl = attribute(path, ACCESS).map(|bytes| Acl::decode(&bytes));
        Protection { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777, acl }
    }

    /// Whether `user`, who has no privileges, gets this permission (`READ` or `WRITE`).
    pub(crate) fn lets(&self, user: &User, wanted: u32) -> bool {
        let allows = |permissions: u32| permissions & wanted == wanted;
        let [for_owner, for_group, for_others] = [6, 3, 0].map(|shift| (self.mode >> shift) & 7);
        let in_group = |gid: u32| user.gid == gid || user.groups.contains(&gid);
        // The group bits of a file with an ACL are its mask.
        let Some(acl) = self.acl.as_ref().filter(|_| for_group != 0) else {
            return match () {
                () if user.uid == self.uid => allows(for_owner),
                () if in_group(self.gid) => allows(for_group),
                () => allows(for_others),
            };
        };
        let masked = |permissions: u32| allows(permissions & acl.get(Tag::Mask).unwrap_or(7));
        if user.uid == self.uid {
            return allows(acl.get(Tag::UserObj).unwrap());
        }
        if let Some(permissions) = acl.get(Tag::User(user.uid)) {
            return masked(permissions);
        }
        let of_group = (self.gid, acl.get(Tag::GroupObj).unwrap());
        let mut matching = acl.groups().chain([of_group]).filter(|(gid, _)| in_group(*gid)).peekable();
        if matching.peek().is_some() {
            return matching.any(|(_, permissions)| masked(permissions));
        }
        allows(acl.get(Tag::Other).unwrap())
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Protection { uid, gid, mode, acl } = self;
        write!(f, "{uid}:{gid} {mode:04o}")?;
        acl.as_ref().map_or(Ok(()), |acl| write!(f, " {acl}"))
    }
}
