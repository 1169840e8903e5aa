"""Fixtures of all tests: one thread for each process of pytest-xdist, no Java, and folders made once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from captioner.evaluation import meteor

for _library in ("OMP", "OPENBLAS", "MKL"):  # NumPy and PyTorch, imported later, read these
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

_FIND_METEOR = meteor.find_meteor
MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session", autouse=True)
def without_java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Makes training and evaluation score without METEOR, whose Java program takes seconds to start.

    This process does not find the program; the processes that tests start find a `java` that fails at once.
    """
    java = tmp_path_factory.mktemp("no-java") / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "find_meteor", lambda _: None)
        patch.setenv("PATH", str(java.parent), prepend=os.pathsep)
        yield


@pytest.fixture
def with_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes METEOR available again, for its own tests."""
    folders = os.environ["PATH"].split(os.pathsep)
    monkeypatch.setenv("PATH", os.pathsep.join(folders[1:]))
    monkeypatch.setattr(meteor, "find_meteor", _FIND_METEOR)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Returns a function that fills a folder once for all pytest-xdist processes; tests do not write to it."""
    from filelock import FileLock

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each process has its own folder in it

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make
