//! File names, contents, and pieces of both.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::common::temporary_name;

const NAME_MAX: usize = 255;

/// Any name that a file can have. Apple's file systems accept only UTF-8, and only letters that Unicode has assigned.
pub fn name() -> BoxedStrategy<OsString> {
    if !cfg!(target_os = "linux") {
        return prop_oneof![4 => "[ -.0-~éß漢字🦀]{1,60}", 1 => "[a-zé]{120}[a-z]{0,15}", 1 => temporary("[a-z]{1,200}")]
            .prop_filter("no directory", |name| !matches!(&**name, "." | ".."))
            .prop_map(OsString::from)
            .boxed();
    }
    let byte = (1..=u8::MAX).prop_filter("not a separator", |byte| *byte != b'/');
    // The length of a long name is shrunk first.
    let long = (vec(byte.clone(), 1..20), prop_oneof![1..=NAME_MAX, 230..=NAME_MAX]);
    prop_oneof![
        4 => vec(byte, 1..20),
        4 => long.prop_map(|(piece, len)| piece.into_iter().cycle().take(len).collect()),
        1 => r"[^\x00/]{1,63}".prop_map(String::into_bytes),
        1 => temporary("[a-z.]{1,200}").prop_map(String::into_bytes),
        // A name that looks like one that was cut.
        1 => temporary("[a-z]{220,222}~[0-9a-f]{16}").prop_map(String::into_bytes),
        1 => "[0-9a-fA-F]{16}\\.(lock|LOCK)".prop_map(String::into_bytes),
        1 => "\\.(gitignore|lock|tmp|gitignore\\.[0-9]{1,5})".prop_map(String::into_bytes),
    ]
    .prop_filter("a name", |name| !matches!(&**name, b"." | b"..") && name.len() <= NAME_MAX)
    .prop_map(OsString::from_vec)
    .boxed()
}

/// A name that looks like a temporary file's.
fn temporary(owner: &'static str) -> impl Strategy<Value = String> {
    let name = (owner, "[a-z2-7]{7}").prop_map(|(owner, random)| temporary_name(&owner, &random));
    name.prop_filter("fits", |name: &String| name.len() <= NAME_MAX)
}

/// A choice among several.
#[derive(Debug, Clone, Copy)]
pub struct Pick(u8);

impl Pick {
    pub fn get<T>(self, from: &[T]) -> &T {
        &from[usize::from(self.0) % from.len()]
    }
}

pub fn pick() -> impl Strategy<Value = Pick> + Clone {
    any::<u8>().prop_map(Pick)
}

/// A short name that differs from all with another number.
pub fn numbered(number: usize) -> impl Strategy<Value = OsString> {
    let odd = if cfg!(target_os = "linux") {
        vec((1..=u8::MAX).prop_filter("not a separator", |byte| *byte != b'/'), 0..4).boxed()
    } else {
        "[ -.0-~é漢]{0,3}".prop_map(String::into_bytes).boxed()
    };
    odd.prop_map(move |odd| OsString::from_vec([number.to_string().as_bytes(), b"-", &odd].concat()))
}

/// Contents of up to some 100 KB with a short debug output: a piece that is repeated.
#[derive(Clone)]
pub struct Contents {
    piece: Vec<u8>,
    len: usize,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of {:?}", self.len, OsStr::from_bytes(&self.piece))
    }
}

impl Contents {
    pub fn bytes(&self) -> Vec<u8> {
        self.piece.repeat(self.len / self.piece.len() + 1)[..self.len].to_vec()
    }
}

/// Any bytes, text, and text that ends inside a character.
pub fn contents() -> impl Strategy<Value = Contents> + Clone {
    let piece = prop_oneof![vec(any::<u8>(), 1..40), "\\PC{1,20}".prop_map(String::into_bytes)];
    let len = prop_oneof![4 => 0..100usize, 2 => 4000..9000usize, 1 => 0..100_000usize];
    (piece, len).prop_map(|(piece, len)| Contents { piece, len })
}
