//! On targets that the crate does not support, the build stops with one sentence.

use std::path::Path;
use std::process::Command;

/// The output of `build.rs` for a target.
fn build_script(os: &str, vendor: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("build");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
    let compiled = Command::new(rustc).args(["--edition=2024", "-o"]).arg(&script).arg(source).status().unwrap();
    assert!(compiled.success());
    let run =
        Command::new(script).env("CARGO_CFG_TARGET_OS", os).env("CARGO_CFG_TARGET_VENDOR", vendor).output().unwrap();
    assert!(run.status.success());
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn every_target_gets_its_backend_or_one_sentence() {
    let cases = [
        ("linux", "unknown", "cargo::rustc-cfg=linux_backend\n"),
        ("macos", "apple", "cargo::rustc-cfg=apple_backend\n"),
        ("ios", "apple", "cargo::rustc-cfg=apple_backend\n"),
        ("windows", "pc", "cargo::error=atomic-file-adapter runs on Linux and on Apple's systems only\n"),
        ("freebsd", "unknown", "cargo::error=atomic-file-adapter runs on Linux and on Apple's systems only\n"),
    ];
    for (os, vendor, says) in cases {
        let output = build_script(os, vendor);
        assert!(output.ends_with(says), "{os}: {output}");
        assert_eq!(output.lines().filter(|line| line.contains("rustc-cfg") || line.contains("error")).count(), 1);
    }
}
