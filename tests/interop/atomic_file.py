#!/usr/bin/env python3
"""Read and change files under the locks of atomic-file-adapter: version 1 of its lock protocol, as a module and a command.

It needs Python 3.8 or later and the package xxhash. It is for one thread of a process, because the kernel's record locks do not
exclude threads, and for a lock directory that is not shared with other users.
"""

import argparse, contextlib, errno, fcntl, os, re, secrets, stat, subprocess, sys, time
from collections import namedtuple

import xxhash

MARK = 2048  # where the name of an intent begins in a lock file
DIGITS = b"abcdefghijklmnopqrstuvwxyz234567"
INTENT = b"atomic-file-adapter intent "
INTENT_NAME = re.compile(rb"[0-9a-f]{16}\.[a-z2-7]{10}\.intent")
ID = re.compile(rb"(0|[1-9][0-9]*)(:(0|-?[1-9][0-9]*)\.(0|[1-9][0-9]*))?")

Intent = namedtuple("Intent", "inode synced changes")
Change = namedtuple("Change", "directory id name temporary inode old")  # temporary and inode are None for a removal


class Unfinished(Exception):
    """Somebody has decided to change several files as one, and this program cannot finish that."""


# The formats: names, and the contents of an intent.


def xxh3(data):
    return xxhash.xxh3_64_hexdigest(data).encode()


def random_digits(count):
    return bytes(secrets.choice(DIGITS) for _ in range(count))


def temporary_name(name, lock_hash, random=None):
    if len(name) > 239:
        cut = next((n for n in (222, 221, 220, 219) if name[n] & 0xC0 != 0x80), 222)
        name = name[:cut] + b"~" + lock_hash
    before = b"." + name + b"." + (random or random_digits(7))
    check = xxhash.xxh3_64_intdigest(before)
    return before + bytes(DIGITS[check >> shift & 31] for shift in (10, 5, 0)) + b".tmp"


def is_temporary_of(name, lock_hash, temporary):
    random = temporary[-14:-7]
    return bool(re.fullmatch(rb"[a-z2-7]{7}", random)) and temporary == temporary_name(name, lock_hash, random)


def is_id(field):
    return bool(ID.fullmatch(field)) and int(field.split(b":")[0]) < 1 << 64


def is_number(field):
    return is_id(field) and b":" not in field


def same(one, other):
    """Whether two ids are those of one file. Only some tell when it was made; Python does not."""
    return one == other or one.split(b":")[0] == other.split(b":")[0] and (b":" not in one or b":" not in other)


def to_bytes(intent):
    fields = [INTENT + b"1", intent.inode, intent.synced]
    for directory, id, name, temporary, inode, old in intent.changes:
        fields += [b"R", directory, id, name, temporary, inode, old] if temporary else [b"D", directory, id, name, old]
    data = b"".join(field + b"\0" for field in fields)
    return data + xxh3(data)


def parse_intent(data):
    """None: it is not complete, so nothing was decided."""
    kind, *fields = data[:-16].split(b"\0")
    if xxh3(data[:-16]) != data[-16:] or not kind.startswith(INTENT):
        return None
    fields, changes, ok = iter(fields[:-1]), [], kind == INTENT + b"1" and fields[-1:] == [b""]
    try:
        inode, synced = next(fields), next(fields)
        ok &= is_number(inode) and synced in (b"full", b"crash")
        for kind in fields:
            directory, id, name = next(fields), next(fields), next(fields)
            ok &= is_id(id) and name not in (b"", b".", b"..") and b"/" not in name
            temporary = new = None
            if kind == b"R":
                temporary, new = next(fields), next(fields)
                ok &= is_number(new) and is_temporary_of(name, xxh3(os.path.join(directory, name)), temporary)
            old = next(fields)
            ok &= kind in (b"R", b"D") and (old == b"" or is_id(old))
            changes.append(Change(directory, id, name, temporary, new, old))
    except StopIteration:
        ok = False
    if not ok or not changes:
        raise Unfinished("the intent is complete, but it has another version or another form")
    return Intent(inode, synced, changes)


# The system.


class closing:
    def __init__(self, fd):
        self.fd = fd

    def __enter__(self):
        return self.fd

    def __exit__(self, *error):
        os.close(self.fd)


def id_of(meta):
    return b"%d" % meta.st_ino if meta else b""


def look(at, name):
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(name, dir_fd=at)


def open_directory(path):
    """Without following links."""
    at = os.open(b"/", os.O_RDONLY)
    for name in filter(None, path.split(b"/")):
        with closing(at):
            at = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
    return at


def for_each_above(path, do):
    """For each directory above, from the top, but those that may not be opened, or are not there."""
    names = path.split(b"/")
    for n in range(1, len(names)):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            with closing(os.open(b"/".join(names[:n]) + b"/", os.O_RDONLY)) as at:
                do(at)


def ask_anew(path):
    """On NFS the kernel asks what is in a directory when that is opened; elsewhere it costs next to nothing."""
    for_each_above(path, lambda at: None)


def sync_directory(path):
    with closing(os.open(path, os.O_RDONLY)) as at:
        os.fsync(at)


def create(path, mode, at=None):
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode, dir_fd=at)


def contents(path):
    ask_anew(path)
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read()


def wait_for(lock, kind):
    for _ in range(3000):
        try:
            return fcntl.lockf(lock, kind)
        except OSError as error:  # a deadlock that the kernel sees among processes need not be one among threads
            if error.errno != errno.EDEADLK:
                raise
        time.sleep(0.01)
    raise OSError(errno.EDEADLK, os.strerror(errno.EDEADLK))


def unmark(lock):
    if os.fstat(lock).st_size > MARK:
        os.ftruncate(lock, os.pread(lock, MARK, 0).find(b"\n") + 1)


class Files:
    """The files that have their locks in one lock directory."""

    def __init__(self, lock_dir=None, lock_root=None):
        self.root = os.path.join(os.path.realpath(os.fsencode(lock_root)), b"") if lock_root else b""
        self.lock_dir = os.path.abspath(os.fsencode(lock_dir) if lock_dir else self.root + b".jerry/local/locks")

    # What there is to do.

    def read(self, path):
        """The contents, as bytes; None: there is no such file."""
        return self.read_many([path])[0]

    def read_many(self, paths):
        """What is in all of them at one time."""
        paths = [self.canonical(path) for path in paths]
        with self.locked(paths, fcntl.LOCK_SH):
            return [contents(path) for path in paths]

    def write(self, path, new):
        """Replaces a file; None: removes it."""
        self.update(path, lambda old: new)

    def update(self, path, change):
        """`change` is given what is in the file, and returns what is to be in it."""
        self.update_many([path], lambda old: [change(old[0])])

    def update_many(self, paths, change):
        """The same of several files as one: all of them change or none does, whoever dies when."""
        paths = [self.canonical(path) for path in paths]
        with self.locked(paths, fcntl.LOCK_EX) as locks, contextlib.ExitStack() as undo:
            new = dict(zip(paths, change([contents(path) for path in paths])))
            new = {path: new[path] for path in new if new[path] is not None or os.path.exists(path)}
            changes = [self.prepare(path, new[path], undo) for path in new]
            if len(changes) > 1:
                return self.decide(changes, {name: locks[name] for name in map(self.lock_name, new)}, undo)
            self.carry_out(changes, locks)
            undo.pop_all()

    def recover(self):
        """Finishes what others have decided and not finished."""
        for name in os.listdir(self.lock_dir) if os.path.isdir(self.lock_dir) else ():
            if INTENT_NAME.fullmatch(name):
                self.finish(name)

    # Locks.

    def canonical(self, path):
        path = os.path.realpath(os.fsencode(path))
        if path == self.root or not path.startswith(self.root):
            raise ValueError(f"{path} is not below the lock root {self.root}")
        return path

    def lock_name(self, path):
        return xxh3(path[len(self.root):]) + b".lock"

    @contextlib.contextmanager
    def locked(self, paths, kind):
        """The locks of these canonical paths, with nothing left to finish."""
        for _ in range(1000):
            with self.take(paths, kind) as locks:
                unfinished = self.unfinished(locks, kind)
                if not unfinished:
                    yield locks
                    return
            self.finish(unfinished)
        raise Unfinished("others come in between again and again")

    @contextlib.contextmanager
    def take(self, paths, kind):
        """All of these locks, in the common order: the open lock file of each name."""
        paths = {self.lock_name(path): path for path in paths}
        with contextlib.ExitStack() as held:
            yield {name: held.enter_context(closing(self.take_one(name, paths[name], kind))) for name in sorted(paths)}

    def take_one(self, name, path, kind):
        lock_file = os.path.join(self.lock_dir, name)
        while True:
            with contextlib.ExitStack() as held:
                lock = held.enter_context(closing(self.open_lock(lock_file, path[len(self.root):])))
                wait_for(lock, kind)
                ask_anew(lock_file)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock), os.stat(lock_file)):  # else it was removed while we waited
                        held.pop_all()
                        return lock

    def open_lock(self, lock_file, named_after):
        while True:
            with contextlib.suppress(FileNotFoundError):
                return os.open(lock_file, os.O_RDWR)
            os.makedirs(self.lock_dir, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                lock = create(lock_file, 0o666)
                if len(named_after) < MARK and b"\n" not in named_after:
                    os.pwrite(lock, named_after + b"\n", 0)
                return lock

    # Several files as one.

    def unfinished(self, locks, kind):
        """The intent that has to be finished first. A mark that means nothing more is taken away before files are changed."""
        for name, lock in locks.items():
            mark = os.pread(lock, 255, MARK)
            intent = self.read_intent(mark) if INTENT_NAME.fullmatch(mark) else None
            if intent and name in map(self.lock_name, self.paths_of(intent)):
                return mark
            if mark and kind == fcntl.LOCK_EX:
                sync_directory(self.lock_dir)
                unmark(lock)

    def read_intent(self, name):
        try:
            file = os.open(os.path.join(self.lock_dir, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return None
            raise
        with closing(file), open(file, "rb", closefd=False) as reader:
            meta = os.fstat(file)
            intent = parse_intent(reader.read()) if stat.S_ISREG(meta.st_mode) else None
        if intent and (meta.st_uid != os.geteuid() or meta.st_mode & 0o022 or id_of(meta) != intent.inode):
            raise Unfinished(f"{name} is another user's intent, or a copy of one")
        return intent

    def paths_of(self, intent):
        if any(change.directory.startswith(b"/") == bool(self.root) for change in intent.changes):
            raise Unfinished("it was decided by somebody with another lock root")
        return [self.path_of(change) for change in intent.changes]

    def path_of(self, change):
        return self.root + os.path.join(change.directory, change.name)

    def prepare(self, path, new, undo):
        """Step 1: the new version, beside the file."""
        directory, name = os.path.split(path)
        with closing(open_directory(directory)) as at:
            old, temporary, inode = look(at, name), None, None
            if new is not None:
                temporary = temporary_name(name, self.lock_name(path)[:16])
                with open(create(temporary, 0o600 if old else 0o666, at), "wb") as file:
                    undo.callback(os.unlink, os.path.join(directory, temporary))
                    file.write(new)
                    file.flush()
                    if old:
                        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
                    os.fsync(file.fileno())
                    inode = id_of(os.fstat(file.fileno()))
            return Change(directory[len(self.root):], id_of(os.fstat(at)), name, temporary, inode, id_of(old))

    def decide(self, changes, locks, undo):
        """Steps 2 to 4, and what follows."""
        lock_hash = min(locks)[:16]
        name = lock_hash + b"." + random_digits(10) + b".intent"
        path, temporary = (os.path.join(self.lock_dir, it) for it in (name, temporary_name(name, lock_hash)))
        with open(create(temporary, 0o644), "wb") as file:
            undo.callback(os.unlink, temporary)
            intent = Intent(id_of(os.fstat(file.fileno())), b"full", changes)
            file.write(to_bytes(intent))
            file.flush()
            os.fsync(file.fileno())
        for lock in locks.values():
            undo.callback(unmark, lock)
            os.pwrite(lock, name, MARK)
            os.fsync(lock)
        self.sync_directories(changes)
        for_each_above(path, os.fsync)
        os.rename(temporary, path)
        undo.pop_all()  # from here on it goes forward only
        sync_directory(self.lock_dir)
        self.complete(name, changes, locks)

    def finish(self, name):
        """Goes on where somebody else has stopped."""
        intent = self.read_intent(name)
        with self.take(self.paths_of(intent) if intent else [], fcntl.LOCK_EX) as locks:
            if intent and self.read_intent(name) == intent:
                sync_directory(self.lock_dir)
                self.complete(name, intent.changes, {it: locks[it] for it in locks if os.pread(locks[it], 255, MARK) == name})

    def complete(self, name, changes, marked):
        """Steps 5 and 6. `marked`: the locks of those files whose lock files have the mark."""
        self.carry_out(changes, marked)
        os.unlink(os.path.join(self.lock_dir, name))
        sync_directory(self.lock_dir)
        for lock in marked.values():
            unmark(lock)

    def carry_out(self, changes, marked):
        for change in changes:
            path = self.path_of(change)
            with closing(open_directory(os.path.dirname(path))) as at:
                if not same(id_of(os.fstat(at)), change.id):
                    raise Unfinished(f"{path}: its directory is another one")
                now, is_marked = look(at, change.name), self.lock_name(path) in marked
                is_old = same(id_of(now), change.old)
                new = look(at, change.temporary) if change.temporary else None
                if new and id_of(new) == change.inode and stat.S_ISREG(new.st_mode):
                    if is_marked or is_old:
                        os.rename(change.temporary, change.name, src_dir_fd=at, dst_dir_fd=at)
                elif change.temporary and is_marked and is_old:
                    raise Unfinished(f"{path}: its new version is gone")
                elif not change.temporary and is_marked and is_old and now:
                    os.unlink(change.name, dir_fd=at)
        self.sync_directories(changes)

    def sync_directories(self, changes):
        for directory in {os.path.dirname(self.path_of(change)) for change in changes}:
            sync_directory(directory)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lock-dir")
    parser.add_argument("--lock-root")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("read", "write", "update"):
        verbs.add_parser(verb).add_argument("path")
    verbs.choices["update"].add_argument("command", nargs=argparse.REMAINDER)
    verbs.add_parser("recover")
    args = parser.parse_args()
    files = Files(args.lock_dir, args.lock_root)
    if args.verb == "read":
        sys.stdout.buffer.write(files.read(args.path) or b"")
    elif args.verb == "write":
        files.write(args.path, sys.stdin.buffer.read())
    elif args.verb == "update":
        files.update(args.path, lambda old: subprocess.run(args.command, input=old or b"", stdout=-1, check=True).stdout)
    else:
        files.recover()


if __name__ == "__main__":
    main()
