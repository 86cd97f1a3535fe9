"""The sequence of the Python reference: lock file, temporary file, os.replace. No fsync of the directory."""

import fcntl
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path, operation):
    locks = path.parent / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    # The reference has Python's own hash here, which is another one in every process.
    with open(locks / f"{hash(str(path.resolve()))}.lock", "a+") as lock:
        fcntl.lockf(lock, operation)
        try:
            yield
        finally:
            fcntl.lockf(lock, fcntl.LOCK_UN)


def read(path):
    with locked(path, fcntl.LOCK_SH):
        return path.read_text()


def write(path, contents):
    with locked(path, fcntl.LOCK_EX):
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(fd, "w") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


verb, path = sys.argv[1], Path(sys.argv[2])
contents = "x" * 4096
once = {"read": lambda: read(path / "small"), "write": lambda: write(path / "python", contents)}[verb]
for line in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(line)):
        once()
    print(time.perf_counter() - start, flush=True)
