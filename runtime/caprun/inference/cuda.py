"""CUDA on this host: the versions that the installed ONNX Runtime needs and that the NVIDIA driver supports.

ONNX Runtime lists its CUDA provider even where CUDA cannot start, and prints several lines when it tries. So the driver
is checked first, and ONNX Runtime is silenced while it starts.
"""

import contextlib
import ctypes
import io
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

_FATAL, _WARNING = 4, 2  # severities of ONNX Runtime's logger; the second is its default


class Requirements(NamedTuple):
    """The versions that the installed ONNX Runtime package was built for."""

    package: str
    """Name and version."""
    cuda: int | None
    """Major version of CUDA; None if the package does not state it."""
    cudnn: int | None
    """Major version of cuDNN; None if the package does not state it."""

    def __str__(self) -> str:
        libraries = [f"{name} {major}" for name, major in (("CUDA", self.cuda), ("cuDNN", self.cudnn)) if major]
        return f"{self.package} needs {' and '.join(libraries) or 'CUDA'}"


def requirements() -> Requirements:
    """Reads the requirements from the installed package."""
    import importlib.metadata  # slow to import, and needed only for a message

    try:
        from onnxruntime.capi import build_and_package_info as built
    except ImportError:
        built = None
    name = getattr(built, "package_name", "onnxruntime-gpu")
    package, needed = name, ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        package = f"{name} {importlib.metadata.version(name)}"
        needed = " ".join(importlib.metadata.requires(name) or [])
    cuda = re.match(r"\d+", str(getattr(built, "cuda_version", "")))
    cudnn = re.search(r"nvidia-cudnn-cu\d+\s*\D+(\d+)", needed)
    return Requirements(package, int(cuda[0]) if cuda else None, int(cudnn[1]) if cudnn else None)


def driver() -> tuple[int, int] | None:
    """Asks the NVIDIA driver for the newest CUDA version that it supports; None without a driver."""
    version = ctypes.c_int()
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed or not version.value else (version.value // 1000, version.value % 1000 // 10)


def problem() -> str | None:
    """Explains in one sentence why the driver keeps CUDA from starting here; None if it does not."""
    found, needed = driver(), requirements()
    if found is None:
        return f"This host has no NVIDIA driver, and {needed}; install a driver, or use --device cpu."
    if needed.cuda is not None and found[0] < needed.cuda:
        return (
            f"The NVIDIA driver here supports CUDA {_dotted(found)} at most, but {needed}; update the driver, install "
            f"an onnxruntime-gpu for CUDA {found[0]}, or use --device cpu."
        )
    return None


def failure(reason: str) -> str:
    """Explains in one sentence that CUDA did not start; `reason` is ONNX Runtime's error, if any."""
    found, needed = driver(), requirements()
    there = "there is no NVIDIA driver" if found is None else f"the NVIDIA driver here supports CUDA {_dotted(found)}"
    return (
        f"CUDA does not start{f' ({reason})' if reason else ''}: {needed}, and {there}; install the libraries with "
        f'pip install "{needed.package.split()[0]}[cuda,cudnn]", or use --device cpu.'
    )


@contextlib.contextmanager
def started_quietly(runtime: Any) -> Iterator[None]:
    """Loads the CUDA libraries of installed packages, and keeps ONNX Runtime from printing while a session starts."""
    runtime.set_default_logger_severity(_FATAL)
    try:
        if hasattr(runtime, "preload_dlls"):
            with contextlib.redirect_stdout(io.StringIO()):  # it prints missing libraries, and stdout is for captions
                runtime.preload_dlls()
        yield
    finally:
        runtime.set_default_logger_severity(_WARNING)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
