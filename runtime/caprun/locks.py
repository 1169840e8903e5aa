"""Locks on open files; a lock ends with the process that holds it."""

import os
import sys

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def try_lock(descriptor: int) -> bool:
    """Locks a file, open for writing, against other processes until it is closed or this process ends.

    Returns:
        False if another process holds the lock. True on a file system without locks.
    """
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, 2**40, os.SEEK_SET)  # beyond the content: a locked range cannot be read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # the file system has no locks
        return True
    return True
