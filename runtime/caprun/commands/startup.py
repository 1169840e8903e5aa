"""What lets a process that captions one photo start and end sooner: for a command, not for a library."""

import contextlib
import gc
import os
from collections.abc import Iterator

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Around the imports of a command and the loading of its model.

    NumPy's OpenBLAS starts a thread a core as it is imported, and each looks for work in a loop for a while; no product
    of matrices is computed in NumPy here. And what is imported stays until the end, when Python would look through all
    of it for cycles, as it does several times on the way.
    """
    blas = os.environ.get(_BLAS_THREADS)
    os.environ.setdefault(_BLAS_THREADS, "1")
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if blas is None:  # not for the processes that this one starts
            del os.environ[_BLAS_THREADS]
        if not gc.get_freeze_count():  # once in a process, which may use a command as a function
            gc.freeze()
        if collecting:
            gc.enable()
