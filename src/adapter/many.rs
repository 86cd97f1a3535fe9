//! The verbs that take the locks of several files at once.

use std::path::Path;

use crate::adapter::AtomicFileAdapter;
use crate::batch::all::Many;
use crate::error::{Error, Result};
use crate::file::AtomicFile;
use crate::file::guard::{ReadGuard, WriteGuard};
use crate::file::locking;

impl AtomicFileAdapter {
    /// Takes the exclusive locks of several files, or none of them. The guards are in the order of `paths`.
    ///
    /// All callers take the locks in the same order, whatever the order of `paths`. So two such calls never wait for
    /// each other in a cycle, even if two paths are the same file or share a lock file.
    /// The builder's `lock_timeout` is one limit for all of them together.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir()?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let [from, to] = ["from", "to"].map(|name| scratch.path().join(name));
    /// # files.write_atomic(&from, "goods")?;
    /// let guards = files.lock_many([&from, &to])?;
    /// guards[1].write(guards[0].read()?.unwrap_or_default())?;
    /// guards[0].delete()?;
    /// # assert_eq!(guards[1].read()?.as_deref(), Some(&b"goods"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`AtomicFile::lock`], or a path cannot be resolved. No lock is held then.
    pub fn lock_many<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<Vec<WriteGuard>> {
        locking::lock_many(&self.config, &self.files(paths)?)
    }

    /// Takes the shared locks of several files, or none of them, in the same order as [`lock_many`](Self::lock_many).
    ///
    /// A program that reads its settings in layers. It locks all files before it reads the first one. So if another
    /// program changes two of them under [`lock_many`](Self::lock_many), this one does not see one change without the
    /// other (unless the other program dies or fails in between). [`try_update`](Self::try_update) has an example of
    /// editing one layer. All programs need the same lock directory: here, one for each user.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use std::error::Error;
    /// use std::path::PathBuf;
    ///
    /// use atomic_file_adapter::AtomicFileAdapter;
    /// use toml_edit::{DocumentMut, Item};
    ///
    /// /// The defaults; over them the project's file, over that the user's, and the environment over all.
    /// fn load(files: &AtomicFileAdapter, layers: &[PathBuf]) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    ///     let mut settings = BTreeMap::from([("colour".into(), "red".into()), ("size".into(), "3".into())]);
    ///     for guard in files.lock_many_shared(layers)? {
    ///         let Some(contents) = guard.read()? else { continue }; // no such layer
    ///         let layer: DocumentMut = String::from_utf8(contents)?.parse()?;
    ///         let strings = layer.iter().filter_map(|(name, item): (&str, &Item)| Some((name, item.as_str()?)));
    ///         settings.extend(strings.map(|(name, value)| (name.to_owned(), value.to_owned())));
    ///     }
    ///     let variables = std::env::vars_os().filter_map(|(name, value)| {
    ///         Some((name.to_str()?.strip_prefix("PAINT_")?.to_lowercase(), value.into_string().ok()?))
    ///     });
    ///     settings.extend(variables);
    ///     Ok(settings)
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn Error>> {
    ///     # let scratch = tempfile::tempdir()?;
    ///     # let (project, home) = (scratch.path().join("project"), scratch.path().join("home"));
    ///     let files = AtomicFileAdapter::with_lock_dir(home.join(".local/state/paint/locks"))?;
    ///     let layers = [project.join("paint.toml"), home.join(".config/paint.toml")];
    ///     files.write_atomic(&layers[1], "colour = 'blue'\n")?;
    ///     let settings = load(&files, &layers)?;
    ///     assert_eq!((&*settings["colour"], &*settings["size"]), ("blue", "3"));
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lock_many`](Self::lock_many).
    pub fn lock_many_shared<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<Vec<ReadGuard>> {
        locking::lock_many_shared(&self.config, &self.files(paths)?)
    }

    fn files<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<Vec<AtomicFile>> {
        paths.into_iter().map(|path| self.file(path)).collect()
    }

    /// Reads several files, calls `change` to make their new versions, and replaces the files: all of them or none. It
    /// holds all the locks meanwhile, so no update of others is lost.
    ///
    /// `change` gets the contents in the order of `paths`, and returns the new contents in the same order. `None` means
    /// that a file does not exist, or has to be removed. If two paths are the same file, `change` gets its contents
    /// twice, and the last new version counts. [`Batch::commit_all`] says what is promised and what it costs.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir_in("/var/tmp")?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let [mine, yours] = ["mine", "yours"].map(|name| scratch.path().join(name));
    /// # files.write_atomic(&mine, "100")?;
    /// let amount = |old: &Option<Vec<u8>>| -> i64 {
    ///     old.as_ref().and_then(|old| String::from_utf8_lossy(old).parse().ok()).unwrap_or(0)
    /// };
    /// // Nobody ever sees the money in both places, or in none.
    /// files.update_many([&mine, &yours], |old| {
    ///     let (mine, yours) = (amount(&old[0]) - 30, amount(&old[1]) + 30);
    ///     vec![Some(mine.to_string().into_bytes()), Some(yours.to_string().into_bytes())]
    /// })?;
    /// # assert_eq!(files.read_to_string_with_lock(&yours)?.as_deref(), Some("30"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Batch::commit_all`]; [`Error::NewVersions`] if `change` does not return one version for each path.
    ///
    /// [`Batch::commit_all`]: crate::Batch::commit_all
    pub fn update_many<P: AsRef<Path>>(
        &self,
        paths: impl IntoIterator<Item = P>,
        change: impl FnOnce(&[Option<Vec<u8>>]) -> Vec<Option<Vec<u8>>>,
    ) -> Result<()> {
        self.try_update_many(paths, |old| Ok(change(old)))
    }

    /// As [`update_many`](Self::update_many), with a change that can fail. If it fails, nothing is changed.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir_in("/var/tmp")?;
    /// # let files = atomic_file_adapter::AtomicFileAdapter::with_lock_dir(scratch.path().join("locks"))?;
    /// # let [index, data] = ["index", "data"].map(|name| scratch.path().join(name));
    /// # files.batch().write(&index, "0 5\n").write(&data, "hello").commit()?;
    /// // Adds a record to a file and its place to the index.
    /// files.try_update_many([&index, &data], |old| -> Result<_, Box<dyn std::error::Error>> {
    ///     let [Some(index), Some(data)] = old else { return Err("there is no data yet".into()) };
    ///     let entry = format!("{} {}\n", data.len(), 5);
    ///     Ok(vec![Some([index, entry.as_bytes()].concat()), Some([&data[..], b"world"].concat())])
    /// })?;
    /// # assert_eq!(files.read_to_string_with_lock(&index)?.as_deref(), Some("0 5\n5 5\n"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// What `change` returns; otherwise as [`update_many`](Self::update_many).
    pub fn try_update_many<P: AsRef<Path>, E: From<Error>>(
        &self,
        paths: impl IntoIterator<Item = P>,
        change: impl FnOnce(&[Option<Vec<u8>>]) -> Result<Vec<Option<Vec<u8>>>, E>,
    ) -> Result<(), E> {
        let paths: Vec<P> = paths.into_iter().collect();
        let (files, which) = Many::find(&self.config, paths.iter().map(AsRef::as_ref))?;
        let held = files.lock()?;
        let old = files.read(&held)?;
        // A file that occurs twice gets two copies.
        let old: Vec<_> = if which.len() > old.len() { which.iter().map(|n| old[*n].clone()).collect() } else { old };
        let new = change(&old)?;
        if new.len() != old.len() {
            let path = paths.first().map(|path| path.as_ref().to_owned()).unwrap_or_default();
            return Err(Error::NewVersions { path, files: old.len(), given: new.len() }.into());
        }
        drop(old);
        let versions = which.into_iter().zip(new).collect();
        Ok(files.replace(&held, versions)?)
    }
}
