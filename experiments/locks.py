"""Locks that keep two processes from the same work."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether no other process holds the lock of this file, which is made; true without locks."""
    if fcntl is None:
        yield True
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks, as some that hosts share
            pass
        yield True
