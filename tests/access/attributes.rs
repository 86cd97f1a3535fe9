//! Extended attributes: those that the new version gets, and file systems without them, which must cause no error.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use atomic_file_adapter::fault::{Action, Call, inject};
use atomic_file_adapter::{AtomicFileAdapter, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::common::acl::{ACCESS, Acl, DEFAULT, Tag, attribute, attributes, set_acl, set_attribute};
use crate::stories::{Scratch, mode};
use crate::users::{GROUP, NAMED, OWNER, User};

type Verb = fn(&AtomicFileAdapter, &Path) -> Result<()>;

const WRITING: [(&str, Verb); 4] = [
    ("write", |adapter, path| adapter.write_atomic(path, "new")),
    ("update", |adapter, path| adapter.update(path, |_| b"new".into())),
    ("batch", |adapter, path| adapter.batch().write(path, "new").commit()),
    ("writer", |adapter, path| {
        let file = adapter.file(path)?;
        let guard = file.lock()?;
        let mut writer = guard.writer()?;
        writer.write_all(b"new").unwrap();
        writer.commit()
    }),
];

const CAPABILITY: &CStr = c"security.capability";

/// `struct vfs_cap_data` (include/uapi/linux/capability.h), revision 2: CAP_NET_RAW, permitted and effective.
fn capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn user_attributes_are_kept_exactly(base: &Path) {
    let scratch = Scratch::within(base);
    let path = scratch.make(OWNER, GROUP, 0o640);
    let name = |name: &[u8]| CString::new([b"user.", name].concat()).unwrap();
    let values: [(CString, Vec<u8>); 6] = [
        (name(b"plain"), b"value".to_vec()),
        (name(b"empty"), Vec::new()),
        (name(b"binary"), (0..=255).collect()),
        (name(b"not utf-8 \xff\xfe"), b"\0\xff".to_vec()),
        (name(&[b'n'; 250]), b"the longest name".to_vec()),
        (name(b"two.dots..and spaces\n"), b"\n".to_vec()),
    ];
    for (name, value) in &values {
        set_attribute(&path, name, value).unwrap();
    }
    // As large as possible, beside the others.
    let large =
        (1..=65536).rev().step_by(16).find(|len| set_attribute(&path, c"user.large", &vec![b'x'; *len]).is_ok());
    assert!(large.is_some_and(|large| large > 1000), "{large:?}");
    let before = attributes(&path);
    assert_eq!(before.len(), 7);
    for (verb, write) in WRITING {
        write(&scratch.adapter, &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new", "{verb}");
        assert_eq!(attributes(&path), before, "{verb}");
        assert_eq!(mode(&path), 0o640, "{verb}");
    }
}

/// Setting a user attribute needs write permission, and nobody may write to this file.
pub(crate) fn user_attributes_of_a_read_only_file_are_kept() {
    let scratch = Scratch::new();
    for before in [0o444, 0o400, 0o555] {
        let path = scratch.make(OWNER, GROUP, 0o600);
        set_attribute(&path, c"user.key", b"value").unwrap();
        crate::stories::set_mode(&path, before);
        scratch.write_as(&User::new("the owner", OWNER, &[GROUP]), &path);
        assert_eq!(attribute(&path, c"user.key").as_deref(), Some(&b"value"[..]), "{before:o}");
        assert_eq!(mode(&path), before);
        fs::remove_file(&path).unwrap();
    }
}

/// The owner sets the attributes again, together with an ACL, in a directory with a default ACL.
pub(crate) fn user_attributes_and_an_acl_are_kept_together() {
    let scratch = Scratch::new();
    let entries = [(Tag::UserObj, 6), (Tag::User(NAMED), 6), (Tag::GroupObj, 0), (Tag::Mask, 6), (Tag::Other, 0)];
    let path = scratch.make(OWNER, GROUP, 0o600);
    set_attribute(&path, c"user.key", b"value").unwrap();
    set_acl(&path, ACCESS, Some(&Acl::new(&entries)));
    let by_default = [(Tag::UserObj, 7), (Tag::User(7006), 7), (Tag::GroupObj, 7), (Tag::Mask, 7), (Tag::Other, 7)];
    set_acl(&scratch.files, DEFAULT, Some(&Acl::new(&by_default)));
    let before = attributes(&path);
    assert_eq!(before.len(), 2);
    for user in [User::new("the owner", OWNER, &[GROUP]), User::new("root", 0, &[])] {
        scratch.write_as(&user, &path);
        assert_eq!(attributes(&path), before, "{}", user.name);
    }
}

/// As `setcap` sets them. A change of owner clears them, so they are set after it.
pub(crate) fn capabilities_are_kept_by_root() {
    let scratch = Scratch::new();
    for (owner, group) in [(0, 0), (OWNER, GROUP)] {
        let path = scratch.make(owner, group, 0o755);
        set_attribute(&path, CAPABILITY, &capability()).unwrap();
        for (verb, write) in WRITING {
            write(&scratch.adapter, &path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new", "{verb}");
            assert_eq!(attribute(&path, CAPABILITY), Some(capability()), "{verb}, {owner}");
        }
        fs::remove_file(&path).unwrap();
    }
}

/// The writer's contents must not run with these rights.
pub(crate) fn capabilities_are_dropped_if_the_writer_may_not_set_them() {
    let scratch = Scratch::new();
    let path = scratch.make(OWNER, GROUP, 0o755);
    for user in [User::new("the owner", OWNER, &[GROUP]), User::new("who may write the directory", 7109, &[])] {
        set_attribute(&path, CAPABILITY, &capability()).unwrap();
        scratch.write_as(&user, &path);
        assert_eq!(attributes(&path), [], "{}", user.name);
        assert_eq!(mode(&path), 0o755, "{}", user.name);
    }
}

/// The writer may not read an attribute of the old version. That is no reason to fail.
pub(crate) fn attributes_that_may_not_be_read_are_no_error() {
    let scratch = Scratch::new();
    let path = scratch.make(OWNER, GROUP, 0o600);
    set_attribute(&path, c"user.key", b"value").unwrap();
    scratch.write_as(&User::new("who may write the directory", 7109, &[]), &path);
    assert_eq!(attributes(&path), []);
    assert_eq!(mode(&path), 0o600);
}

pub(crate) fn a_file_without_attributes_gets_none() {
    let scratch = Scratch::new();
    let by_default = [(Tag::UserObj, 7), (Tag::User(7006), 7), (Tag::GroupObj, 7), (Tag::Mask, 7), (Tag::Other, 7)];
    for default in [None, Some(Acl::new(&by_default))] {
        let path = scratch.make(OWNER, GROUP, 0o640);
        set_acl(&path, ACCESS, None);
        set_acl(&scratch.files, DEFAULT, default.as_ref());
        for (verb, write) in WRITING {
            write(&scratch.adapter, &path).unwrap();
            assert_eq!(attributes(&path), [], "{verb}");
            assert_eq!(mode(&path), 0o640, "{verb}");
        }
    }
}

/// A removed file is not an old version, so the new file gets nothing from it.
pub(crate) fn a_file_that_was_deleted_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.make(OWNER, GROUP, 0o600);
    set_attribute(&path, c"user.key", b"value").unwrap();
    assert!(scratch.adapter.delete_with_lock(&path).unwrap());
    scratch.adapter.write_atomic(&path, "new").unwrap();
    assert_eq!(attributes(&path), []);
}

/// ramfs has neither attributes nor ACLs.
pub(crate) fn a_file_system_without_attributes_costs_no_error() {
    let above = tempfile::tempdir().unwrap();
    let root = above.path().canonicalize().unwrap();
    mount(Some("ramfs"), &root, Some("ramfs"), MsFlags::empty(), None::<&str>).unwrap();
    let _mounted = Mounted(&root);
    assert_eq!(set_attribute(&root, c"user.key", b"").unwrap_err().raw_os_error(), Some(libc::ENOTSUP));
    let scratch = Scratch::within(&root);
    let path = scratch.make(OWNER, GROUP, 0o640);
    for (verb, write) in WRITING {
        write(&scratch.adapter, &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new", "{verb}");
        let meta = path.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid(), mode(&path)), (OWNER, GROUP, 0o640), "{verb}");
    }
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Lazily, because a failed test has files open there.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// Writes in each way while every call about attributes fails, and checks the mode.
fn written_without_attributes(errors: [i32; 2], before: u32, after: u32) {
    for errno in errors {
        for (verb, write) in WRITING {
            let scratch = Scratch::new();
            let path = scratch.make(OWNER, GROUP, before);
            let decide = move |call: &Call<'_>| {
                if format!("{:?}", call.syscall).ends_with("xattr") { Action::Fail(errno) } else { Action::Proceed }
            };
            inject(decide, || write(&scratch.adapter, &path)).0.unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new", "{verb}");
            let meta = path.metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid(), mode(&path)), (OWNER, GROUP, after), "{verb}, {errno}");
        }
    }
}

/// An attribute that cannot be read may keep somebody out. So only the owner may use the new version, because an error
/// would help nobody.
pub(crate) fn in_a_sandbox_that_refuses_the_calls_a_version_is_its_owners_alone() {
    written_without_attributes([libc::EPERM, libc::EACCES], 0o4664, 0o4600);
}

/// The errors of a FUSE file system without these calls, and of an old NFS server.
pub(crate) fn calls_for_attributes_that_are_not_supported_cost_no_error() {
    written_without_attributes([libc::ENOTSUP, libc::ENOSYS], 0o640, 0o640);
}
