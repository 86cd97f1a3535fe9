//! The names of temporary files.
//!
//! `.{name}.{random}{check}.tmp` in the directory of the file `name`, with seven random digits, and three check digits
//! over everything before them. If a name would be longer than NAME_MAX, it is cut, and the hash of the file's path is
//! added, which is also in its lock file's name: `.{cut}~{hash}.{random}{check}.tmp`. So the name tells which lock the
//! writer holds. A user's own file `.notes.javascript.tmp` is taken for a temporary file once in 32768 times.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::ffi::CStr;
use std::hash::{BuildHasher, Hasher};

use xxhash_rust::xxh3::xxh3_64;

use crate::protocol::lock_name::{PATH_HASH_LEN, is_path_hash};

/// Linux allows 255 bytes a name (NAME_MAX). Apple's file systems allow no fewer: HFS+ has 255 UTF-16 units a name (Apple's
/// Technical Note TN1150).
const NAME_MAX: usize = 255;
const RANDOM_LEN: usize = 7;
const CHECK_LEN: usize = 3;

const SUFFIX: &[u8] = b".tmp";
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The longest name that need not be cut.
const ROOM: usize = NAME_MAX - b"..".len() - RANDOM_LEN - CHECK_LEN - SUFFIX.len();
/// A UTF-8 character has up to so many bytes after its first. They are cut off together with it.
const PART_OF_CHARACTER: usize = 3;

thread_local! {
    /// The random part of this thread's names. It is used again until one of its names exists already, because most
    /// file systems find a name that existed before faster than a new one. Each thread has its own, so that two threads
    /// do not use one name.
    static RANDOM: Cell<u64> = Cell::new(random());
}

fn random() -> u64 {
    // RandomState is seeded by the operating system once for each thread, and differs at every call.
    RandomState::new().build_hasher().finish()
}

fn write_digits(mut number: u64, digits: &mut [u8]) {
    for digit in digits {
        *digit = DIGITS[(number % 32) as usize];
        number /= 32;
    }
}

/// Random digits as in a temporary name, which nobody has used before.
pub(crate) fn random_digits<const N: usize>() -> [u8; N] {
    let mut digits = [0; N];
    write_digits(random(), &mut digits);
    digits
}

/// Whether these can be such digits.
pub(crate) fn are_digits(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| DIGITS.contains(byte))
}

/// On the stack, so that a usual write allocates nothing.
pub(crate) struct TemporaryName {
    bytes: [u8; NAME_MAX + 1],
    len: usize,
}

impl std::fmt::Debug for TemporaryName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

impl TemporaryName {
    /// The name for the file `name`. `hash` is from its lock file's name.
    pub(crate) fn new(name: &CStr, hash: &[u8]) -> Self {
        let name = name.to_bytes();
        let mut temporary = TemporaryName { bytes: [0; NAME_MAX + 1], len: 0 };
        temporary.push(b".");
        if name.len() <= ROOM {
            temporary.push(name);
        } else {
            let room = ROOM - b"~".len() - hash.len();
            // Some file systems refuse a name that is not UTF-8, so do not cut a character in two.
            let begins_character = |cut: &usize| name[*cut] & 0xC0 != 0x80;
            let cut = (room - PART_OF_CHARACTER..=room).rev().find(begins_character).unwrap_or(room);
            temporary.push(&name[..cut]);
            temporary.push(b"~");
            temporary.push(hash);
        }
        temporary.push(b".");
        temporary.push(&[b'0'; RANDOM_LEN + CHECK_LEN]);
        temporary.push(SUFFIX);
        temporary.set_random(RANDOM.get());
        temporary
    }

    /// The same with a random part that no other name of this thread has.
    pub(crate) fn fresh(name: &CStr, hash: &[u8]) -> Self {
        let mut temporary = Self::new(name, hash);
        temporary.set_random(random());
        temporary
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Takes another random part, for this name and for all later names of this thread.
    pub(crate) fn change(&mut self) {
        RANDOM.set(random());
        self.set_random(RANDOM.get());
    }

    fn set_random(&mut self, random: u64) {
        let end = self.len - SUFFIX.len();
        let (checked, check) = self.bytes[..end].split_at_mut(end - CHECK_LEN);
        let random_digits = checked.len() - RANDOM_LEN;
        write_digits(random, &mut checked[random_digits..]);
        check.copy_from_slice(&check_of(checked));
    }

    pub(crate) fn get(&self) -> &CStr {
        // `bytes` is one byte longer than the longest name, and zero after the name.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// The low 15 bits of `xxh3_64` (seed 0), as three digits, the most significant first.
fn check_of(before: &[u8]) -> [u8; CHECK_LEN] {
    let hash = xxh3_64(before);
    [10, 5, 0].map(|shift| DIGITS[(hash >> shift & 31) as usize])
}

/// The file that a temporary file may belong to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    /// The name of that file.
    pub(crate) name: &'a [u8],
    /// The hash of that file's path.
    pub(crate) hash: Option<&'a [u8]>,
}

impl<'a> Owner<'a> {
    /// `None`: this is not a temporary file's name.
    pub(crate) fn of(temporary: &'a [u8]) -> Option<Self> {
        let rest = temporary.strip_suffix(SUFFIX)?;
        let (checked, check) = rest.split_last_chunk()?;
        let (rest, random) = checked.split_last_chunk::<RANDOM_LEN>()?;
        let name = rest.strip_prefix(b".")?.strip_suffix(b".").filter(|name| !name.is_empty())?;
        if !are_digits(random) || *check != check_of(checked) {
            return None;
        }
        let (before, hash) = name.split_at_checked(name.len().saturating_sub(PATH_HASH_LEN))?;
        let was_cut = name.len() + PART_OF_CHARACTER >= ROOM && before.ends_with(b"~") && is_path_hash(hash);
        Some(Owner { name, hash: was_cut.then_some(hash) })
    }
}
