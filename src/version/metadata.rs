//! What the new version takes over from the old one: owner, group, mode, access control list and attributes.
//!
//! The rule: the new version lets in the users whom the old one let in, and nobody else, from the creation of the
//! temporary file on. If the system does not allow the writer to copy a right, the new version has fewer rights, never
//! more. Copying the mode is not enough:
//!
//! - If the old version has an access control list, its group bits are the list's mask ([acl(5)]).
//! - A default access control list of the directory gives the temporary file entries that the old version does not have.
//!   Such entries get no more than the group bits with which it is made ([acl(5)], "Object creation and default ACLs").
//! - At first the temporary file belongs to the writer and to the writer's group. So its mode at creation has only the
//!   rights that owner, group and others of the old version *all* have, or it is for its owner alone. Then it does not
//!   matter which of the three a user belongs to.
//!
//! [acl(5)]: https://man7.org/linux/man-pages/man5/acl.5.html

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Result, Step};
use crate::path::{Dir, Place};
use crate::settings::Options;
use crate::sys::{self, Errno, Fd, Meta};
use crate::version::acl::Acl;
use crate::version::{read, stat_regular, sync};

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const PERMISSIONS: u32 = 0o777;

/// The current version, as far as the next one depends on it.
#[derive(Debug)]
pub(crate) struct Old {
    meta: Meta,
    access: Access,
    attributes: Vec<Attribute>,
    /// Whether the file system has attributes. If so, the temporary file may have inherited some.
    may_inherit: bool,
}

/// The rights of a file.
#[derive(Debug)]
enum Access {
    /// The mode alone.
    Mode,
    /// An access control list, parsed and as an attribute.
    List(Acl, Vec<u8>),
    /// There may be a list that this process must not see.
    Unknown,
}

#[derive(Debug)]
struct Attribute {
    name: CString,
    value: Vec<u8>,
}

impl Attribute {
    /// Sets it on the temporary file. `needed`: it is an error if this process has no permission to set it.
    fn set(&self, file: &Fd, needed: bool, path: &Path) -> Result<()> {
        match sys::set_attribute(file, &self.name, &self.value) {
            Err(error) if needed || !is_refusal(error) => Err(Error::io(path, Step::SetAttributes, error)),
            _ => Ok(()),
        }
    }
}

impl Old {
    /// Looks at the file of this name. `None`: there is none.
    pub(crate) fn look(dir: &Dir, name: &CStr, path: &Path) -> Result<Option<Self>> {
        let Some(mut meta) = stat_regular(dir, name, path)? else { return Ok(None) };
        // The mode in the kernel's cache may be an older one with more rights.
        match dir.freshen_file(name) {
            Ok(false) => {}
            Ok(true) => {
                let Some(now) = stat_regular(dir, name, path)? else { return Ok(None) };
                meta = now;
            }
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(Error::io(path, Step::Stat, error)),
        }
        let mut old = Old { meta, access: Access::Mode, attributes: Vec::new(), may_inherit: true };
        let failed = |error| Error::io(path, Step::ReadAttributes, error);
        let names = match sys::list_attributes(dir.as_fd(), name) {
            Ok(names) => names,
            Err(Errno::NOTSUP | Errno::NOSYS) => {
                old.may_inherit = false;
                return Ok(Some(old));
            }
            // ENOENT: the file was removed meanwhile, by a program without the lock. Nobody can tell any more what its
            // group bits meant.
            Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) => {
                old.access = Access::Unknown;
                return Ok(Some(old));
            }
            Err(error) => return Err(failed(error)),
        };
        for attribute in names.split_inclusive(|byte| *byte == 0).filter_map(|it| CStr::from_bytes_with_nul(it).ok()) {
            let is_list = attribute == sys::ACCESS_LIST;
            if !is_list && !is_carried_over(attribute) {
                continue;
            }
            match sys::attribute(dir.as_fd(), name, attribute) {
                Ok(value) if is_list => {
                    old.access = Acl::parse(&value).map_or(Access::Unknown, |acl| Access::List(acl, value));
                }
                Ok(value) => old.attributes.push(Attribute { name: attribute.to_owned(), value }),
                // A file system that is mounted without access control lists lists them all the same, and applies only
                // the mode.
                Err(Errno::NOTSUP | sys::NO_ATTRIBUTE) => {}
                // Only users who may read the file may read its `user` attributes (xattr(7)).
                Err(Errno::ACCESS | Errno::PERM) if !is_list => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Some(old))
    }

    /// The rights of the old version.
    fn acl(&self) -> Acl {
        match &self.access {
            Access::Mode => Acl::of_mode(self.meta.mode),
            Access::List(acl, _) => acl.clone(),
            Access::Unknown => Acl::of_mode(self.meta.mode & 0o700),
        }
    }
}

/// The mode with which the temporary file is made. It lets in nobody whom the new version will keep out.
pub(crate) fn mode_at_first(old: Option<&Old>, options: Options) -> u32 {
    match old {
        None => options.new_file_mode.unwrap_or(0o666) & PERMISSIONS,
        // The usual case, in which the mode need not be changed later.
        Some(Old { meta, access: Access::Mode, attributes, .. }) if attributes.is_empty() => {
            Acl::of_mode(meta.mode).for_everybody()
        }
        // Setting an attribute needs write permission (xattr(7)).
        Some(_) => 0o600,
    }
}

/// Called as soon as the temporary file exists. Removes the rights that it inherited from the directory, and sets the
/// labels and attributes of the old version. `path` is for error messages.
pub(crate) fn begin(file: &Fd, old: &Old, path: &Path) -> Result<()> {
    if !old.may_inherit {
        return Ok(());
    }
    let inherited = match sys::list_open_attributes(file) {
        Ok(names) => names,
        // A sandbox. The file stays its owner's alone, and inherited entries have no effect without group bits.
        Err(Errno::ACCESS | Errno::PERM) if matches!(old.access, Access::Unknown) => return Ok(()),
        Err(error) => return Err(Error::io(path, Step::ReadAttributes, error)),
    };
    let has = |name: &CStr| inherited.split_inclusive(|byte| *byte == 0).any(|it| it == name.to_bytes_with_nul());
    if has(sys::ACCESS_LIST) {
        sys::remove_attribute(file, sys::ACCESS_LIST).map_err(|error| Error::io(path, Step::SetAttributes, error))?;
    }
    for attribute in old.attributes.iter().filter(|it| it.name.as_c_str() != CAPABILITY) {
        let Attribute { name, value } = attribute;
        // If the system uses labels, they decide who gets in, too, so a wrong label is an error.
        let label_counts = is_label(name) && has(name);
        if label_counts && sys::open_attribute(file, name).as_ref() == Ok(value) {
            continue;
        }
        attribute.set(file, label_counts, path)?;
    }
    Ok(())
}

/// Gives the temporary file the owner, group, access control list and mode of the file that it replaces. This comes
/// after all writes, because a write clears setuid bits and capabilities. A change of owner clears them, too, so the
/// owner is set first.
pub(crate) fn finish(file: &Fd, old: Option<&Old>, options: Options, path: &Path) -> Result<()> {
    let Some(old) = old else {
        return options.new_file_mode.map_or(Ok(()), |mode| set_mode(file, mode, path));
    };
    let new = sys::stat_open(file).map_err(|error| Error::io(path, Step::Stat, error))?;
    let kept = keep_owner(file, &old.meta, &new, path)?;
    let mut special = old.meta.mode & !PERMISSIONS;
    let mut acl = old.acl();
    // If the owner or group could not be kept, the file must not run with rights that the writer does not have.
    if !kept.owner {
        special &= !SET_USER_ID;
        acl = acl.without_owner();
    }
    if !kept.group {
        special &= !SET_GROUP_ID;
        acl = acl.without_group();
    }
    let mut permissions = acl.mode();
    if let Access::List(_, attribute) = &old.access {
        let exact = kept.owner && kept.group;
        let set =
            sys::set_attribute(file, sys::ACCESS_LIST, &if exact { attribute.clone() } else { acl.to_attribute() });
        match set {
            Ok(()) => {}
            // EINVAL: an id does not exist in this user namespace.
            Err(error) if is_refusal(error) || error == Errno::INVAL => permissions = acl.for_everybody(),
            Err(error) => return Err(Error::io(path, Step::SetAttributes, error)),
        }
    }
    for capability in old.attributes.iter().filter(|it| it.name.as_c_str() == CAPABILITY) {
        capability.set(file, false, path)?;
    }
    // A change of owner may have cleared bits, and a list sets some.
    let mode = special | permissions;
    let as_made = kept.unchanged && matches!(old.access, Access::Mode) && mode == new.mode;
    if as_made { Ok(()) } else { set_mode(file, mode, path) }
}

/// Changes the mode of the current version. False: there is none.
pub(crate) fn set_mode_in_place(place: &Place, mode: u32, options: Options) -> Result<bool> {
    let Some((file, _)) = read::open_current(place)? else { return Ok(false) };
    set_mode(&file, mode, place.path())?;
    sync(&file, place.path(), options)?;
    Ok(true)
}

/// Whether the new version has the owner and the group of the old one.
struct Kept {
    owner: bool,
    group: bool,
    /// It has both already, so nothing had to be changed.
    unchanged: bool,
}

/// Only root may give a file to another user, but an owner may give it to a group that he is in.
fn keep_owner(file: &Fd, old: &Meta, new: &Meta, path: &Path) -> Result<Kept> {
    // An id that this user namespace does not map looks like another user's id. The file must not go to that user.
    let (uid_is_lost, gid_is_lost) = (sys::is_unmapped_uid(old.uid), sys::is_unmapped_gid(old.gid));
    let uid = (old.uid != new.uid && !uid_is_lost).then_some(old.uid);
    let gid = (old.gid != new.gid && !gid_is_lost).then_some(old.gid);
    let mut kept = Kept { owner: !uid_is_lost, group: !gid_is_lost, unchanged: uid.is_none() && gid.is_none() };
    // The temporary file's mode may give its owner more than the old version did. The new owner must not get that.
    let too_much = new.mode & !old.mode & 0o700;
    if uid.is_some() && too_much != 0 {
        set_mode(file, new.mode & !too_much, path)?;
    }
    if !kept.unchanged && !set_owner(file, uid, gid, path)? {
        kept.owner &= uid.is_none();
        kept.group &= gid.is_none() || (uid.is_some() && set_owner(file, None, gid, path)?);
    }
    Ok(kept)
}

/// Changes the owner. False: this is not allowed.
fn set_owner(file: &Fd, uid: Option<u32>, gid: Option<u32>, path: &Path) -> Result<bool> {
    match sys::set_owner(file, uid, gid) {
        Ok(()) => Ok(true),
        // EINVAL: an id does not exist in this user namespace (chown(2)). EOVERFLOW: it does not exist in that of the
        // mount (`notify_change` in fs/attr.c). The others: the file system has no owners.
        Err(Errno::PERM | Errno::INVAL | Errno::OVERFLOW | Errno::NOTSUP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(Error::io(path, Step::SetOwner, error)),
    }
}

fn set_mode(file: &Fd, mode: u32, path: &Path) -> Result<()> {
    sys::set_mode(file, mode).map_err(|error| Error::io(path, Step::SetMode, error))
}

/// Whether this process, or this file system, cannot set an attribute.
fn is_refusal(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::NOSYS)
}

/// A program's capabilities (capabilities(7)). A write or a change of owner clears them, as it clears setuid bits.
const CAPABILITY: &CStr = c"security.capability";

/// The labels of SELinux and Smack.
fn is_label(name: &CStr) -> bool {
    name == c"security.selinux" || name.to_bytes().starts_with(b"security.SMACK64")
}

/// Attributes that belong to the file. Others belong to its contents, as the hashes of IMA and EVM do (`security.ima`,
/// `security.evm`), or to the file system, as those of overlayfs (`trusted.overlay.*`). Apple's systems have no such
/// classes of names (xattr(7)).
fn is_carried_over(name: &CStr) -> bool {
    cfg!(apple_backend) || name.to_bytes().starts_with(b"user.") || is_label(name) || name == CAPABILITY
}
