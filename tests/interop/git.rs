//! What git sees.

use std::fs;
use std::path::Path;

use crate::Scratch;

/// A repository without the settings of the user, of the system, and of a hook that may have started the tests.
fn git(dir: &Path, args: &[&str]) -> String {
    let mut git = assert_cmd::Command::new("git");
    git.current_dir(dir).args(["-c", "core.excludesFile=/dev/null"]).args(args);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    String::from_utf8(git.assert().success().get_output().stdout.clone()).unwrap()
}

fn repository() -> Scratch {
    let scratch = Scratch::new();
    git(&scratch.path, &["init", "-q"]);
    scratch
}

fn status(scratch: &Scratch) -> String {
    git(&scratch.path, &["status", "--porcelain", "--ignored=no", "--untracked-files=all"])
}

/// Calls every verb once. At the end there is one file.
fn use_it(scratch: &Scratch) {
    let file = scratch.file();
    file.write("x").unwrap();
    file.update(|old| [old.unwrap(), b"y"].concat()).unwrap();
    let other = scratch.adapter.file(scratch.path.join("other")).unwrap();
    other.write("x").unwrap();
    assert!(other.delete().unwrap());
    assert_eq!(file.read().unwrap().as_deref(), Some(&b"xy"[..]));
    assert!(file.lock_path().is_file() && other.lock_path().is_file());
}

pub(crate) fn git_sees_the_users_file_only() {
    let scratch = repository();
    use_it(&scratch);
    assert_eq!(status(&scratch), "?? file\n");
}

pub(crate) fn a_gitignore_of_the_users_own_stays_as_it_is() {
    let scratch = repository();
    let ignore = scratch.lock_dir().join(".gitignore");
    fs::create_dir_all(scratch.lock_dir()).unwrap();
    fs::write(&ignore, "# mine\n*.lock\n").unwrap();
    use_it(&scratch);
    assert_eq!(fs::read(&ignore).unwrap(), b"# mine\n*.lock\n");
    assert_eq!(status(&scratch), "?? .jerry/local/locks/.gitignore\n?? file\n");
}

pub(crate) fn nothing_of_somebody_elses_is_hidden_from_git() {
    let scratch = repository();
    fs::create_dir_all(scratch.lock_dir()).unwrap();
    fs::write(scratch.lock_dir().join("theirs"), "precious").unwrap();
    use_it(&scratch);
    assert!(!scratch.lock_dir().join(".gitignore").exists());
    assert!(status(&scratch).lines().any(|line| line == "?? .jerry/local/locks/theirs"));
}
