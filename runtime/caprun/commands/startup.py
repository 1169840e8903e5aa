"""Makes a process that captions one photo start and end sooner; for a command, not for a library."""

import contextlib
import gc
import os
from collections.abc import Iterator

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Speeds up the imports of a command and the loading of its model.

    NumPy's OpenBLAS would start a thread for each core, which spins for a while, though no matrices are multiplied in
    NumPy here. The garbage collector would search everything that is imported several times, though all of it stays.
    """
    blas = os.environ.get(_BLAS_THREADS)
    os.environ.setdefault(_BLAS_THREADS, "1")
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if blas is None:  # child processes keep their threads
            del os.environ[_BLAS_THREADS]
        if not gc.get_freeze_count():  # once, in a process that calls a command several times
            gc.freeze()
        if collecting:
            gc.enable()
