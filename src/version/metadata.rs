//! What the new version takes over from the old one: its owner, its group and its mode.

use std::path::Path;

use crate::error::{Error, Result, Step};
use crate::settings::Options;
use crate::sys::{self, Errno, Fd, Meta};

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;

/// The mode with which the temporary file is made: nobody may open it whom the new version will keep out.
pub(crate) fn mode_at_first(old: Option<Meta>, options: Options) -> u32 {
    old.map_or(options.new_file_mode.unwrap_or(0o666), |old| for_another_group(old.mode)) & 0o777
}

/// Gives the temporary file the owner, the group and the mode of the file that it replaces. `path` is for errors.
pub(crate) fn carry_over(file: &Fd, old: Option<Meta>, options: Options, path: &Path) -> Result<()> {
    let Some(old) = old else {
        return options.new_file_mode.map_or(Ok(()), |mode| set_mode(file, mode, path));
    };
    let new = sys::stat_open(file).map_err(|error| Error::io(path, Step::Stat, error))?;
    let uid = (old.uid != new.uid).then_some(old.uid);
    let gid = (old.gid != new.gid).then_some(old.gid);
    let mut mode = old.mode;
    // Only root may give a file away, but an owner may hand it to a group that he is in. Where that is not
    // allowed the file is the writer's, and must not run with the rights of an owner that it does not have.
    if (uid.is_some() || gid.is_some()) && !set_owner(file, uid, gid, path)? {
        if uid.is_some() {
            mode &= !SET_USER_ID;
        }
        if gid.is_some() && !set_owner(file, None, gid, path)? {
            mode = for_another_group(mode) & !SET_GROUP_ID;
        }
    }
    // A change of owner may have cleared bits.
    if mode != new.mode || uid.is_some() || gid.is_some() { set_mode(file, mode, path) } else { Ok(()) }
}

/// Changes the owner; false if that is not allowed.
fn set_owner(file: &Fd, uid: Option<u32>, gid: Option<u32>, path: &Path) -> Result<bool> {
    match sys::set_owner(file, uid, gid) {
        Ok(()) => Ok(true),
        // EINVAL: an id that does not exist in this user namespace (chown(2)). The others: a file system
        // without owners.
        Err(Errno::PERM | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(Error::io(path, Step::SetOwner, error)),
    }
}

fn set_mode(file: &Fd, mode: u32, path: &Path) -> Result<()> {
    sys::set_mode(file, mode).map_err(|error| Error::io(path, Step::SetMode, error))
}

/// A file's mode for a file that has another group, for the time being or for good: nobody in that group may do what
/// all others may not.
fn for_another_group(mode: u32) -> u32 {
    let for_others = mode & 0o007;
    mode & !(0o070 & !(for_others << 3))
}
