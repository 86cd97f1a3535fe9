//! Each test has one subject: ACLs that were lost, default ACLs that files inherited, groups that were let in.

use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use atomic_file_adapter::fault::{Action, Call, inject};
use atomic_file_adapter::{AtomicFileAdapter, Result};
use tempfile::TempDir;

use crate::common::acl::{ACCESS, Acl, DEFAULT, Tag, attribute, attributes, set_acl};
use crate::common::{Worker, names, tell};
use crate::users::{GROUP, MEMBER, NAMED, OWNER, STRANGER, User, opened_by, user_in};

/// A directory in which every user may replace files, with a lock directory that every user may use.
pub(crate) struct Scratch {
    pub(crate) files: PathBuf,
    pub(crate) adapter: AtomicFileAdapter,
    _above: TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    pub(crate) fn within(base: &Path) -> Self {
        let above = tempfile::tempdir_in(base).unwrap();
        let real = above.path().canonicalize().unwrap();
        set_mode(&real, 0o755);
        for name in ["files", "locks"] {
            fs::create_dir(real.join(name)).unwrap();
            set_mode(&real.join(name), 0o777);
        }
        let adapter = AtomicFileAdapter::with_lock_dir(real.join("locks")).unwrap();
        Scratch { files: real.join("files"), adapter, _above: above }
    }

    /// The file, with the contents "old".
    pub(crate) fn make(&self, owner: u32, group: u32, mode: u32) -> PathBuf {
        let path = self.files.join("file");
        fs::write(&path, "old").unwrap();
        chown(&path, Some(owner), Some(group)).unwrap();
        set_mode(&path, mode);
        path
    }

    /// Lets other users open its lock file.
    pub(crate) fn share_lock(&self, path: &Path) {
        let lock = self.adapter.lock_path(path).unwrap();
        fs::write(&lock, "").unwrap();
        set_mode(&lock, 0o666);
    }

    pub(crate) fn write_as(&self, user: &User, path: &Path) {
        self.share_lock(path);
        let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
        let ids = [user.uid.to_string(), user.gid.to_string(), groups.join(",")];
        let places = [self.adapter.lock_dir().to_str().unwrap(), path.to_str().unwrap()];
        let mut worker = Worker::start("write", &[&ids[0], &ids[1], &ids[2], places[0], places[1]]);
        worker.expect("done");
        worker.finish();
        assert_eq!(fs::read_to_string(path).unwrap(), "new");
        assert_eq!(names(&self.files), ["file"]);
    }

    /// Writes in this process, which is root's.
    pub(crate) fn write(&self, path: &Path) {
        self.adapter.write_atomic(path, "new").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "new");
        assert_eq!(names(&self.files), ["file"]);
    }
}

/// The worker: writes as this user.
pub(crate) fn write(args: &[String]) {
    let (user, [locks, path]) = user_in(args) else { panic!("{args:?}") };
    user.become_it();
    let written = AtomicFileAdapter::with_lock_dir(locks).and_then(|adapter| adapter.write_atomic(path, "new"));
    tell(&written.map_or_else(|error| error.to_string(), |()| "done".to_owned()));
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The twelve bits of `chmod`.
pub(crate) fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

fn member() -> User {
    User::new("a member of the group", MEMBER, &[GROUP])
}

fn named() -> User {
    User::new("the named user", NAMED, &[])
}

fn stranger() -> User {
    User::new("a stranger", STRANGER, &[])
}

/// The rights of `user` for each file in the directory except the old version, at each call of `write` and at its end.
/// Each right is once in the list.
fn seen_by(user: User, files: &Path, write: impl FnOnce() -> Result<()>) -> Vec<String> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let old = files.join("file").metadata().unwrap().ino();
    let (all, dir) = (seen.clone(), files.to_owned());
    let look = move || {
        for name in names(&dir) {
            let path = dir.join(&name);
            if path.metadata().unwrap().ino() != old {
                let opened = opened_by(&user, &path);
                if !all.borrow().contains(&opened) {
                    all.borrow_mut().push(opened);
                }
            }
        }
    };
    let at_the_end = look.clone();
    inject(
        move |_: &Call<'_>| {
            look();
            Action::Proceed
        },
        write,
    )
    .0
    .unwrap();
    at_the_end();
    seen.take()
}

/// The group bits of the mode are the ACL's mask, so a copy of the mode lets the group in.
pub(crate) fn an_acl_is_kept_and_the_group_stays_out() {
    let scratch = Scratch::new();
    let path = scratch.make(OWNER, GROUP, 0o600);
    let entries = [(Tag::UserObj, 6), (Tag::User(NAMED), 6), (Tag::GroupObj, 0), (Tag::Mask, 6), (Tag::Other, 0)];
    let acl = Acl::new(&entries);
    set_acl(&path, ACCESS, Some(&acl));
    assert_eq!(
        (mode(&path), opened_by(&member(), &path), opened_by(&named(), &path)),
        (0o660, "--".into(), "rw".into())
    );
    scratch.write(&path);
    assert_eq!(attribute(&path, ACCESS), Some(acl.encode()));
    assert_eq!(mode(&path), 0o660);
    assert_eq!(opened_by(&member(), &path), "--");
    assert_eq!(opened_by(&named(), &path), "rw");
}

pub(crate) fn a_user_who_is_shut_out_by_an_acl_stays_out() {
    let scratch = Scratch::new();
    let path = scratch.make(OWNER, GROUP, 0o644);
    let entries = [(Tag::UserObj, 6), (Tag::User(NAMED), 0), (Tag::GroupObj, 4), (Tag::Mask, 4), (Tag::Other, 4)];
    let acl = Acl::new(&entries);
    set_acl(&path, ACCESS, Some(&acl));
    assert_eq!((opened_by(&named(), &path), opened_by(&stranger(), &path)), ("--".into(), "r-".into()));
    let seen = seen_by(named(), &scratch.files, || scratch.adapter.write_atomic(&path, "new"));
    assert_eq!(seen, ["--"]);
    assert_eq!(attribute(&path, ACCESS), Some(acl.encode()));
    assert_eq!((opened_by(&named(), &path), opened_by(&stranger(), &path)), ("--".into(), "r-".into()));
}

/// `setfacl -dm u:NAMED:rw` on the directory. The existing file of mode 0640 does not have this entry.
pub(crate) fn a_default_acl_does_not_land_on_a_file_that_was_there() {
    let scratch = Scratch::new();
    let path = scratch.make(OWNER, GROUP, 0o640);
    let entries = [(Tag::UserObj, 7), (Tag::User(NAMED), 6), (Tag::GroupObj, 5), (Tag::Mask, 7), (Tag::Other, 5)];
    set_acl(&scratch.files, DEFAULT, Some(&Acl::new(&entries)));
    let seen = seen_by(named(), &scratch.files, || scratch.adapter.write_atomic(&path, "new"));
    assert_eq!(seen, ["--"]);
    assert_eq!(attribute(&path, ACCESS), None);
    assert_eq!(mode(&path), 0o640);

    // A new file inherits it, like every new file there.
    fs::remove_file(&path).unwrap();
    scratch.write(&path);
    let by_adapter = (attribute(&path, ACCESS), mode(&path));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(by_adapter, (attribute(&path, ACCESS), mode(&path)));
    assert!(by_adapter.0.is_some());
}

pub(crate) fn a_default_acl_does_not_shut_the_group_out() {
    let scratch = Scratch::new();
    let path = scratch.make(OWNER, GROUP, 0o640);
    let acl = Acl::new(&[(Tag::UserObj, 7), (Tag::GroupObj, 0), (Tag::Other, 0)]);
    set_acl(&scratch.files, DEFAULT, Some(&acl));
    scratch.write(&path);
    assert_eq!((opened_by(&member(), &path), mode(&path)), ("r-".into(), 0o640));
    let with_names = [(Tag::UserObj, 7), (Tag::User(NAMED), 4), (Tag::GroupObj, 0), (Tag::Mask, 7), (Tag::Other, 0)];
    set_acl(&scratch.files, DEFAULT, Some(&Acl::new(&with_names)));
    scratch.write(&path);
    assert_eq!((opened_by(&member(), &path), mode(&path)), ("r-".into(), 0o640));
    assert_eq!(attributes(&path), []);
}

/// With mode 0604, members of the group may not read, and all others may. At first the temporary file has the writer's
/// group.
pub(crate) fn a_group_that_is_shut_out_stays_out_while_a_file_is_written() {
    let scratch = Scratch::new();
    let path = scratch.make(0, GROUP, 0o604);
    assert_eq!((opened_by(&member(), &path), opened_by(&stranger(), &path)), ("--".into(), "r-".into()));
    let seen = seen_by(member(), &scratch.files, || {
        let file = scratch.adapter.file(&path)?;
        let guard = file.lock()?;
        let mut writer = guard.writer()?;
        std::io::Write::write_all(&mut writer, b"secret").unwrap();
        writer.commit()
    });
    assert_eq!(seen, ["--"]);
    assert_eq!((mode(&path), opened_by(&stranger(), &path)), (0o604, "r-".into()));
    assert_eq!(path.metadata().unwrap().gid(), GROUP);
}

/// A writer who may not keep the group makes a version with his own group. Then members of the old group are among the
/// others.
pub(crate) fn a_group_that_is_shut_out_stays_out_for_good() {
    let scratch = Scratch::new();
    let writer = User::new("who may write the directory", 7109, &[]);
    for before in [0o604, 0o606, 0o640, 0o646, 0o664] {
        let path = scratch.make(OWNER, GROUP, before);
        let was = opened_by(&member(), &path);
        scratch.write_as(&writer, &path);
        let is = opened_by(&member(), &path);
        let more: Vec<(char, char)> =
            was.chars().zip(is.chars()).filter(|(was, is)| *was == '-' && *is != '-').collect();
        assert_eq!(more, [], "{before:o}: {was}, then {is}");
        fs::remove_file(&path).unwrap();
    }
}

/// An ACL that names the old owner. The entry counts when he is no longer the owner.
pub(crate) fn an_owner_who_is_shut_out_stays_out_when_the_file_has_another() {
    let scratch = Scratch::new();
    let owner = User::new("the owner", OWNER, &[]);
    let entries = [(Tag::UserObj, 0), (Tag::User(OWNER), 6), (Tag::GroupObj, 4), (Tag::Mask, 6), (Tag::Other, 4)];
    let path = scratch.make(OWNER, GROUP, 0o044);
    set_acl(&path, ACCESS, Some(&Acl::new(&entries)));
    assert_eq!(opened_by(&owner, &path), "--");
    scratch.write_as(&User::new("another member", 7102, &[GROUP]), &path);
    assert_eq!(opened_by(&owner, &path), "--");
}

/// The setuid bit is dropped, or the file would run with the rights of the writer.
pub(crate) fn what_a_member_of_the_group_writes_still_lets_the_group_in() {
    let scratch = Scratch::new();
    let path = scratch.make(OWNER, GROUP, 0o4664);
    scratch.write_as(&User::new("another member", 7102, &[GROUP]), &path);
    let meta = path.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), mode(&path)), (7102, GROUP, 0o664));
    assert_eq!((opened_by(&member(), &path), opened_by(&stranger(), &path)), ("rw".into(), "r-".into()));
}
