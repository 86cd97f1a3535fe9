//! The names of lock files are a public protocol: the same on every machine and in every release.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use atomic_file_adapter::AtomicFileAdapter;

#[test]
fn lock_names_are_the_golden_ones() {
    let x200 = format!("/{}", "x".repeat(200));
    let y100 = format!("/{0}/{0}/{0}", "y".repeat(100));
    // Made with Python: `xxhash.xxh3_64_hexdigest(path)`. The lengths go through every branch of XXH3. `interop.rs`
    // asks Python itself for many more.
    let golden: &[(&[u8], &str)] = &[
        (b"/a", "e292ab48a6b06805.lock"),
        (b"/etc/hosts", "4b997af520936073.lock"),
        (b"/srv/data/settings.toml", "c6090d074b7f2d75.lock"),
        ("/srv/données/é.toml".as_bytes(), "8022d11289d3a008.lock"),
        (b"/srv/\xff\xfe/raw", "1e9d76f32872c7b5.lock"),
        (x200.as_bytes(), "5f9b6af9e82029cd.lock"),
        (y100.as_bytes(), "b04a6714b3915b85.lock"),
    ];
    let adapter = AtomicFileAdapter::with_lock_dir("/no/such/locks").unwrap();
    for (path, name) in golden {
        let path = Path::new(OsStr::from_bytes(path));
        assert_eq!(adapter.lock_path(path).unwrap(), Path::new("/no/such/locks").join(name), "{path:?}");
    }
}
