//! Turns the target into one of the two cfgs that the code uses, and refuses any other target.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(linux_backend, apple_backend)");
    let target = |key: &str| env::var(key).unwrap_or_default();
    if target("CARGO_CFG_TARGET_OS") == "linux" {
        println!("cargo::rustc-cfg=linux_backend");
    } else if target("CARGO_CFG_TARGET_VENDOR") == "apple" {
        println!("cargo::rustc-cfg=apple_backend");
    } else {
        println!("cargo::error=atomic-file-adapter runs on Linux and on Apple's systems only");
    }
}
