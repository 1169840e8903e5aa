"""Speeds up start and exit of a process that captions one photo; for commands, not for libraries."""

import contextlib
import gc
import os
from collections.abc import Iterator

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Speeds up the imports of a command and the loading of its model.

    NumPy's OpenBLAS would start a thread per core, which spins for a while, although NumPy multiplies no matrices here.
    The garbage collector would scan all imported objects several times, although none can be freed.
    """
    blas = os.environ.get(_BLAS_THREADS)
    os.environ.setdefault(_BLAS_THREADS, "1")
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if blas is None:  # child processes have their usual threads
            del os.environ[_BLAS_THREADS]
        if not gc.get_freeze_count():  # only once in a process that calls several commands
            gc.freeze()
        if collecting:
            gc.enable()
