//! The names of temporary files.
//!
//! `.{name}.{random}{check}.tmp` beside the file `name`, with seven random digits and three that are a check over all
//! before them. A name so long that this would pass NAME_MAX is cut, and told from its like by the hash of its path, which
//! is also its lock file's name: `.{cut}~{hash}.{random}{check}.tmp`. So whoever finds one can tell which lock its writer
//! holds, and takes a file that somebody has named `.notes.javascript.tmp` for one of ours once in 32768 times.

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

/// How long a name may be that need not be cut.
const ROOM: usize = NAME_MAX - b"..".len() - RANDOM_LEN - CHECK_LEN - SUFFIX.len();
/// As many bytes of a UTF-8 character as a cut may fall behind.
const PART_OF_CHARACTER: usize = 3;

thread_local! {
    /// The random part that this thread's names have, until one of them is taken. A name that was there before is found
    /// again sooner than a new one by most file systems, and no two threads are to meet at one.
    static RANDOM: Cell<u64> = Cell::new(random());
}

fn random() -> u64 {
    // Seeded by the operating system, once a thread, and different at every call.
    RandomState::new().build_hasher().finish()
}

fn write_digits(mut number: u64, digits: &mut [u8]) {
    for digit in digits {
        *digit = DIGITS[(number % 32) as usize];
        number /= 32;
    }
}

/// So many digits, as they are in a temporary name, that nobody has had before.
pub(crate) fn random_digits<const N: usize>() -> [u8; N] {
    let mut digits = [0; N];
    write_digits(random(), &mut digits);
    digits
}

/// Whether they may be such digits.
pub(crate) fn are_digits(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| DIGITS.contains(byte))
}

/// On the stack: a warm write allocates nothing.
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
    /// For the file `name`, whose lock file's name has this `hash`.
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

    /// Another random part, for this name and for all that this thread makes from now on.
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
        // `bytes` is one longer than the longest name and zero behind it.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// The low 15 bits of `xxh3_64` (seed 0), as three digits, the most significant first.
fn check_of(before: &[u8]) -> [u8; CHECK_LEN] {
    let hash = xxh3_64(before);
    [10, 5, 0].map(|shift| DIGITS[(hash >> shift & 31) as usize])
}

/// Whose temporary file a name may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    /// The file of this name.
    pub(crate) name: &'a [u8],
    /// The file whose path has this hash.
    pub(crate) hash: Option<&'a [u8]>,
}

impl<'a> Owner<'a> {
    /// `None` if it is no temporary file's name.
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
