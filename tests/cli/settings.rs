//! `--lock-dir`, `--lock-root`, `--lock-mode`, `--no-follow` and `--durability`.

use std::fs;

use crate::common::{names, no_root};
use crate::{FAILED, HOLD, Scratch, TIMED_OUT, TOOL, message};

#[test]
fn lock_files_are_in_the_default_directory_hidden_from_git() {
    let scratch = Scratch::with("file", "x");
    scratch.run(&["read", "file"]).success();
    let dir = scratch.at(".jerry/local/locks");
    let lock = scratch.lock_path("file");
    assert_eq!(names(&dir), [".gitignore", lock.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(fs::read(dir.join(".gitignore")).unwrap(), b"*\n");
}

#[test]
fn the_lock_directory_may_be_given_before_and_after_the_verb() {
    let scratch = Scratch::with("file", "x");
    let absolute = scratch.at("absolute/locks");
    let absolute = absolute.to_str().unwrap();
    for (dir, below) in [("relative/locks", "relative/locks"), (absolute, "absolute/locks"), ("./a/../b", "b")] {
        // `..` needs an existing directory.
        fs::create_dir_all(scratch.at("a")).unwrap();
        let lock = scratch.adapter(below).lock_path(scratch.at("file")).unwrap();
        for args in [["--lock-dir", dir, "read", "file"], ["read", "file", "--lock-dir", dir]] {
            scratch.run(&args).success().stdout("x");
            assert_eq!(names(&scratch.at(below)), [".gitignore", lock.file_name().unwrap().to_str().unwrap()]);
            fs::remove_dir_all(scratch.at(below)).unwrap();
        }
    }
    assert!(!scratch.at(".jerry").exists());
}

#[test]
fn two_spellings_of_a_lock_directory_exclude_each_other() {
    let scratch = Scratch::with("file", "x");
    let absolute = scratch.at("locks");
    let mut holder = scratch.start_sh(&["--lock-dir", "locks", "run", "file"], HOLD);
    holder.expect("held");
    scratch.run(&["--lock-dir", absolute.to_str().unwrap(), "--timeout", "0", "read", "file"]).code(TIMED_OUT);
}

#[test]
fn locks_below_a_root_are_the_same_wherever_it_is() {
    let scratch = Scratch::new();
    let lock_path = |root: &str| {
        fs::create_dir_all(scratch.at(root)).unwrap();
        let run = scratch.run(&["--lock-root", root, "lock-path", &format!("{root}/sub/file")]).success();
        let path = String::from_utf8(run.get_output().stdout.clone()).unwrap();
        path.trim_end().strip_prefix(scratch.at(root).to_str().unwrap()).unwrap().to_owned()
    };
    assert_eq!(lock_path("here"), lock_path("there/deeper"));
    assert_eq!(lock_path("here"), "/.jerry/local/locks/552292792527025e.lock");
    // Two processes. The second uses a path with a link.
    std::os::unix::fs::symlink("here", scratch.at("link")).unwrap();
    let mut holder = scratch.start_sh(&["--lock-root", "here", "run", "here/file"], HOLD);
    holder.expect("held");
    scratch.run(&["--lock-root", "link", "--timeout", "0", "read", "link/file"]).code(TIMED_OUT);
    // A program without a root uses another lock file.
    scratch.run(&["--lock-dir", "here/.jerry/local/locks", "--timeout", "0", "read", "here/file"]).success();
}

#[test]
fn what_leads_out_of_the_lock_root_is_refused() {
    let scratch = Scratch::with("file", "x");
    fs::create_dir(scratch.at("data")).unwrap();
    let refused = scratch.run(&["--lock-root", "data", "read", "data/../file"]).code(FAILED).stdout("");
    let (file, data) = (scratch.at("file"), scratch.at("data"));
    let expected = format!(
        "data/../file leads to {}, which is not below the lock root {}, and only what is below it has a lock: use a path \
         below it, or another root (lock_root, --lock-root)",
        file.display(),
        data.display()
    );
    assert_eq!(message(&refused), expected);
    assert!(names(&data).is_empty());
}

#[test]
fn new_lock_files_have_the_mode_that_is_given() {
    use std::os::unix::fs::PermissionsExt;

    let scratch = Scratch::with("file", "x");
    scratch.run(&["--lock-mode", "666", "read", "file"]).success();
    let mode = fs::metadata(scratch.lock_path("file")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    for wrong in ["8", "rw", "1777"] {
        scratch.run(&["--lock-mode", wrong, "read", "file"]).code(2);
    }
}

#[test]
fn links_are_followed_unless_that_is_refused() {
    let scratch = Scratch::with("file", "x");
    std::os::unix::fs::symlink("file", scratch.at("link")).unwrap();
    scratch.run(&["read", "link"]).success().stdout("x");
    let refused = scratch.run(&["--no-follow", "read", "link"]).code(FAILED).stdout("");
    assert!(message(&refused).contains("symbolic link"), "{}", message(&refused));
    scratch.run(&["read", "file", "--no-follow"]).success().stdout("x");
}

#[test]
fn every_durability_writes_and_deletes() {
    for level in ["full", "ordered", "none"] {
        let scratch = Scratch::with("file", "old");
        scratch.tool(&["--durability", level, "write", "file"]).write_stdin("a").assert().success();
        scratch.run_sh(&["update", "--durability", level, "file"], "tr a b").success();
        scratch.run(&["read", "file"]).success().stdout("b");
        scratch.run(&["delete", "file", "--durability", level]).success();
        assert!(scratch.names().is_empty());
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs Linux: setpriv")]
fn full_durability_is_the_default_and_refused_where_a_directory_cannot_be_synced() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let dir = scratch.at("unreadable");
    fs::create_dir(&dir).unwrap();
    let set_mode = |mode| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
    let write = |args: &[&str]| {
        let args = [args, &["write", "unreadable/file"]].concat();
        // Root may read everything, unless it has lost its capabilities.
        let mut tool = match no_root() {
            Some(_) => scratch.tool(&args),
            None => {
                let mut tool = assert_cmd::Command::new("setpriv");
                tool.args(["--bounding-set=-all", "--inh-caps=-all", TOOL]).args(&args).current_dir(&scratch.path);
                tool
            }
        };
        tool.assert()
    };
    set_mode(0o300);
    let refused = [write(&[]), write(&["--durability", "full"])];
    let written = [write(&["--durability", "ordered"]), write(&["--durability", "none"])];
    set_mode(0o700);
    for assert in refused {
        assert!(message(&assert.code(FAILED)).contains("sync the directory"));
    }
    for assert in written {
        assert.success();
    }
    assert_eq!(names(&dir), ["file"]);
}
