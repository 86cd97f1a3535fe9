"""What the tests have `atomic_file.py` do: commands as lines of stdin, answers as lines of stdout. The argument is the lock
directory; the files are in the directory `files` beside it."""

import json, os, pathlib, random, signal, sys, threading

import atomic_file
from atomic_file import Files, INTENT_NAME, MARK, Unfinished

HERE = pathlib.Path(__file__).parent


def say(*words):
    print(*words, flush=True)


class DyingSystem:
    """The module `os`, until so many of its functions were called: then the process kills itself before the next one."""

    def __init__(self, lives):
        self.lives, self.calls = lives, 0

    def __getattr__(self, name):
        real = getattr(os, name)
        if name in ("path", "strerror", "fsencode", "geteuid") or not callable(real):
            return real

        def call(*args, **named):
            if self.calls == self.lives:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1
            return real(*args, **named)

        return call


def dies(lives, work):
    """Whether a child that is killed after so many calls was killed before its work was done."""
    child = os.fork()
    if child == 0:
        atomic_file.os = DyingSystem(lives)
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info() == (None, None, None) else 1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return "ended" if status == 0 else "failed"


# The bank: see bank.rs.

SECRET = b"\xde\xd4\x6d\xe9\x83\x90\x97\xdb"
NAMES = [b"0", b"1", b"branch/2", b"branch/3", *(b"two-names-of-one-lock-" + SECRET + end for end in (b"11111111", b"22222222"))]


def amount(contents):
    return int(contents or 0)


def transfer(files, accounts, counter):
    chosen = random.sample(accounts, random.randrange(2, 5))
    take = random.randrange(1, 400)
    moved = False

    def change(old):
        nonlocal moved
        amounts = [amount(it) for it in old]
        out = min(take, amounts[0])
        if not out:
            return old
        moved = True
        share = out // (len(chosen) - 1)
        amounts = [amounts[0] - out, *(it + share for it in amounts[1:-1]), amounts[-1] + 1]
        amounts[-2] += out - share * (len(chosen) - 1)
        return [b"%d" % it if it else None for it in amounts]

    files.update_many([*chosen, counter], change)
    return moved


def counters(changes):
    return [os.fsdecode(it.name) for it in changes if it.name.startswith(b"transfers-of-")]


class TellingFiles(Files):
    """Says what it finishes that somebody else has decided, whose counter is changed by that."""

    own = None

    def complete(self, intent, changes, marked):
        super().complete(intent, changes, marked)
        for counter in counters(changes):
            if counter != self.own:
                say("finished", counter)


def teller(files, directory, name):
    """Moves money until it is told to stop, and says so after each time."""
    files.own = "transfers-of-" + name
    accounts = [os.path.join(directory, it) for it in NAMES]
    counter = os.path.join(directory, b"transfers-of-" + name.encode())
    made = amount(files.read(counter))
    told = threading.Thread(target=sys.stdin.readline, daemon=True)
    told.start()
    while told.is_alive():
        if transfer(files, accounts, counter):
            made += 1
            say("made", made)
        if made % 4 == 0:
            total = sum(map(amount, files.read_many(accounts)))
            if total != 1000:
                say("failed: the sum is", total)


# The vectors: see tests/vectors/README.md.


def plain(value):
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return b"".join(map(plain, value))
    return bytes.fromhex(value["hex"]) if "hex" in value else plain(value["of"]) * value["times"]


def vectors(name):
    with open(HERE.parent / "vectors" / f"{name}.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def check_lock_name(vector):
    files = Files("/no/such/locks")
    # Without asking the system where links lead to.
    files.root = os.path.join(plain(vector["lock_root"]), b"") if vector["lock_root"] else b""
    path = plain(vector["path"])
    if vector["lock_file"] is None:
        return not (path.startswith(files.root) and path != files.root)
    return files.lock_name(path) == vector["lock_file"].encode() and path[len(files.root):] == plain(vector["named_after"])


def check_temporary_name(vector):
    if "not_temporary" in vector:
        name = plain(vector["not_temporary"])
        owner = name[1:-15]
        return not (name.startswith(b".") and owner and atomic_file.is_temporary_of(owner, b"0" * 16, name))
    name, lock_hash, temporary = (plain(vector[it]) for it in ("name", "lock_hash", "temporary"))
    made = atomic_file.temporary_name(name, lock_hash, vector["random"].encode())
    return made == temporary and atomic_file.is_temporary_of(name, lock_hash, temporary)


def check_lock_file(vector, scratch):
    scratch.mkdir(exist_ok=True)
    files = Files(scratch / "locks", scratch)
    if "new" in vector:
        path = os.fsencode(os.path.realpath(scratch)) + b"/" + plain(vector["named_after"])
        os.close(files.take_one(files.lock_name(path), path, atomic_file.fcntl.LOCK_EX))
        lock_file = os.path.join(files.lock_dir, vector["lock_file"].encode())
        return pathlib.Path(os.fsdecode(lock_file)).read_bytes() == plain(vector["new"])
    lock_file = scratch / "locks" / vector["lock_file"]
    lock_file.parent.mkdir(exist_ok=True)
    contents = plain(vector["contents"])
    lock_file.write_bytes(contents)
    seen = []
    files.read_intent = seen.append
    files.write(scratch / "settings.toml", b"new")
    first_line, newline, _ = contents[:MARK].partition(b"\n")
    is_guarded = newline and atomic_file.xxh3(first_line) + b".lock" == vector["lock_file"].encode()
    return (
        (first_line if is_guarded else None) == (vector["guards"] and plain(vector["guards"]))
        and seen == ([plain(vector["mark"])] if vector["mark"] else [])
        and lock_file.read_bytes() == contents[: vector["kept"]]
        and (scratch / "settings.toml").read_bytes() == b"new"
    )


def check_intent(vector):
    if "ids" in vector:
        return atomic_file.same(*map(str.encode, vector["ids"])) == vector["same"]
    try:
        found = atomic_file.parse_intent(plain(vector["intent"]))
    except Unfinished:
        return vector.get("refused") == "unknown"
    if "refused" in vector:
        return vector["refused"] == "broken" and found is None
    fields = ("directory", "id", "name", "temporary", "inode", "old")
    changes = [atomic_file.Change(*(plain(it[field]) if field in it else None for field in fields)) for it in vector["changes"]]
    expected = atomic_file.Intent(vector["inode"].encode(), vector["synced"].encode(), changes)
    return found == expected and atomic_file.to_bytes(expected) == plain(vector["intent"])


def check_vectors(scratch):
    checks = {
        "lock_names": check_lock_name,
        "temporary_names": check_temporary_name,
        "lock_files": lambda vector: check_lock_file(vector, scratch),
        "intents": check_intent,
    }
    for name, check in checks.items():
        for vector in vectors(name):
            if not check(vector):
                say("wrong:", json.dumps(vector))
    say("checked")


def main():
    lock_dir = pathlib.Path(sys.argv[1])
    directory = lock_dir.parent / "files"
    files = TellingFiles(lock_dir)
    for line in iter(sys.stdin.readline, ""):
        verb, *args = json.loads(line)
        paths = [directory / it.partition("=")[0] for it in args]
        if verb == "at":  # another place
            lock_dir = pathlib.Path(args[0])
            directory, files = lock_dir.parent / "files", TellingFiles(lock_dir)
        elif verb == "read":
            say(json.dumps([it and it.decode() for it in files.read_many(paths)]))
        elif verb == "touch":
            files.update_many(paths, lambda old: old)
            say("touched")
        elif verb == "change":
            lives, *changes = args
            new = [it.partition("=")[2].encode() if "=" in it else None for it in changes]
            say(dies(int(lives), lambda: files.update_many(paths[1:], lambda old: new)))
        elif verb == "recover":
            say(dies(int(args[0]), files.recover))
        elif verb == "count":
            for _ in range(int(args[1])):
                files.update(paths[0], lambda old: b"%d" % (amount(old) + 1))
            say("counted")
        elif verb == "bank":
            accounts = [os.path.join(os.fsencode(directory), it) for it in NAMES]
            say(sum(map(amount, files.read_many(accounts))))
        elif verb == "teller":
            teller(files, os.fsencode(directory), args[0])
            say("stopped")
            break
        elif verb == "vectors":
            check_vectors(lock_dir.parent / "scratch")


main()
