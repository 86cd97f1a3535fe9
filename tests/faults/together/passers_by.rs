//! The calls that come after a process has died, and have to finish its decided change first.

use std::path::PathBuf;

use atomic_file_adapter::{AtomicFileAdapter, Result};

use crate::together::place::{Place, Tree};

/// A call, and the files as it sees them.
pub(super) type PassBy = fn(&AtomicFileAdapter, &Place) -> Result<Tree>;

pub(super) const PASSERS_BY: [(&str, PassBy); 14] = [
    ("lock_many_shared", |adapter, place| place.look(adapter)),
    ("read_with_lock", |adapter, place| Ok(seen("replaced", adapter.read_with_lock(place.path("replaced"))?))),
    ("read of a handle", |adapter, place| Ok(seen("deleted", adapter.file(place.path("deleted"))?.read()?))),
    ("recover", |adapter, _| adapter.recover().map(|_| Tree::new())),
    ("prune", |adapter, _| adapter.prune().map(|_| Tree::new())),
    ("sweep", |adapter, place| adapter.sweep(&place.files).map(|_| Tree::new())),
    ("try_lock", |adapter, place| {
        let file = adapter.file(place.path("missing/made"))?;
        let guard = file.try_lock()?;
        Ok(seen("missing/made", guard.read()?))
    }),
    ("update", |adapter, place| {
        let mut tree = Tree::new();
        adapter.update(place.path("replaced"), |old| {
            tree = seen("replaced", old.map(<[u8]>::to_vec));
            old.unwrap_or_default().to_vec()
        })?;
        Ok(tree)
    }),
    ("update_many", |adapter, place| {
        let mut tree = Tree::new();
        adapter.update_many([place.path("deleted"), place.path("missing/made")], |old| {
            tree = seen("deleted", old[0].clone());
            tree.append(&mut seen("missing/made", old[1].clone()));
            old.to_vec()
        })?;
        Ok(tree)
    }),
    ("commit_all", |adapter, place| {
        let mut batch = adapter.batch();
        batch.write(place.path("beside"), "of no concern").delete(place.path("missing/other"));
        batch.commit_all().map(|()| Tree::new())
    }),
    ("lock_many", |adapter, place| {
        let guards = adapter.lock_many([place.path("beside"), place.path("deleted")])?;
        Ok(seen("deleted", guards[1].read()?))
    }),
    ("lock_shared_timeout", |adapter, place| {
        let file = adapter.file(place.path("replaced"))?;
        let guard = file.lock_shared_timeout(std::time::Duration::from_secs(50))?;
        Ok(seen("replaced", guard.read()?))
    }),
    ("commit", |adapter, place| {
        // It writes the contents that the file has already, or will have.
        let path: PathBuf = place.path("missing/made");
        let there = adapter.read_with_lock(&path)?;
        let mut batch = adapter.batch();
        match there {
            Some(contents) => batch.write(path, contents),
            None => batch.delete(path),
        };
        batch.commit().map(|()| Tree::new())
    }),
    ("intents and locks", |adapter, _| {
        adapter.intents()?;
        adapter.locks().map(|_| Tree::new())
    }),
];

fn seen(name: &'static str, contents: Option<Vec<u8>>) -> Tree {
    Tree::from([(name, contents.map(|contents| String::from_utf8(contents).unwrap()))])
}
