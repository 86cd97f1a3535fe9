//! A bank, whose accounts are files: money is moved between some of them at a time, and the sum stays as it is.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use atomic_file_adapter::{AtomicFileAdapter, Error};
use xxhash_rust::xxh3::xxh3_64;

/// What there is in all accounts.
pub const SUM: u64 = 1000;

/// Why there was no transfer.
#[derive(Debug)]
pub enum Refusal {
    Short,
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Failed(error)
    }
}

/// Accounts in `dir`, which is the directory of the files, and two more, which have one lock file between them.
pub fn accounts<const N: usize>(dir: &Path, names: [&str; N]) -> Vec<PathBuf> {
    names.map(|name| dir.join(name)).into_iter().chain(two_names_of_one_lock(dir)).collect()
}

/// Two names in `dir` whose paths have the same hash, and so the same lock file.
///
/// For 17 to 128 bytes XXH3 multiplies the last 16, in halves, after an exclusive or with a fixed secret. If the first
/// half is the secret itself the product is zero, whatever the second half is.
pub fn two_names_of_one_lock(dir: &Path) -> [PathBuf; 2] {
    const SECRET: &[u8] = b"\xde\xd4\x6d\xe9\x83\x90\x97\xdb";
    [b"11111111", b"22222222"].map(|end: &[u8; 8]| {
        // In less than 40 bytes other parts of the hash see the end too.
        let name = [b"two-names-of-one-lock-".as_slice(), SECRET, end].concat();
        dir.join(OsStr::from_bytes(&name))
    })
}

/// What there is in an account, or how far a counter has come. Where there is no file, that is nothing.
pub fn amount(contents: Option<&[u8]>) -> u64 {
    contents.map_or(0, |contents| std::str::from_utf8(contents).unwrap().parse().unwrap())
}

/// How much there is in all accounts, seen under the locks of all.
pub fn sum(adapter: &AtomicFileAdapter, accounts: &[PathBuf]) -> Result<u64, Error> {
    let guards = adapter.lock_many_shared(accounts)?;
    guards.iter().map(|guard| Ok(amount(guard.read()?.as_deref()))).sum()
}

/// A random number below `limit`.
pub fn next(state: &mut u64, limit: u64) -> u64 {
    *state = xxh3_64(&state.to_le_bytes());
    *state % limit
}

/// Moves some money among two to four accounts, which are so many places apart, and counts that as a part of the same change.
/// What becomes empty is removed.
pub fn transfer(
    adapter: &AtomicFileAdapter,
    accounts: &[PathBuf],
    apart: usize,
    counter: &Path,
    random: &mut u64,
) -> Result<(), Refusal> {
    let count = 2 + usize::try_from(next(random, 3)).unwrap();
    let first = usize::try_from(next(random, accounts.len() as u64)).unwrap();
    let mut paths: Vec<&Path> = (0..count).map(|n| accounts[(first + n * apart) % accounts.len()].as_path()).collect();
    paths.push(counter);
    let mut take = 1 + next(random, 400);
    adapter.try_update_many(&paths, |old| {
        let mut amounts: Vec<u64> = old.iter().map(|old| amount(old.as_deref())).collect();
        take = take.min(amounts[0]);
        if take == 0 {
            return Err(Refusal::Short);
        }
        amounts[0] -= take;
        let share = take / (count as u64 - 1);
        amounts[1..count].iter_mut().for_each(|amount| *amount += share);
        amounts[count - 1] += take - share * (count as u64 - 1);
        amounts[count] += 1;
        Ok(amounts.into_iter().map(|amount| (amount > 0).then(|| amount.to_string().into())).collect())
    })
}
