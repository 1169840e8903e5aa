"""The examples in README and docs/ that need only the packaged model run as printed."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import caprun.cli
from tests.test_documents import DOCUMENTS, ROOT, blocks

TINY = ROOT / "tests" / "tiny" / "bundle"
PHOTO = ROOT / "examples" / "astronaut.jpg"
PAGES = ("README.md", "docs/guides/caption.md", "docs/guides/library.md", "docs/reference/python.md")
_NOT_HERE = re.compile(r"caprun (serve|watch|bulk|doctor)")  # .ci/run and other tests run these


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a folder with the files that the examples name, and changes to it."""
    (tmp_path / "DIR" / "sub").mkdir(parents=True)
    (tmp_path / "examples" / "photos").mkdir(parents=True)
    for name in ("photo.jpg", "another.png", "DIR/a.jpg", "DIR/sub/b.jpg", "examples/photos/kitten.jpg"):
        shutil.copy(PHOTO, tmp_path / name)
    for name in ("mine", "RUN"):
        shutil.copytree(TINY, tmp_path / "weights" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPRUN_MODEL", raising=False)
    return tmp_path


_LINES = [
    pytest.param(text.split("#")[0].strip(), id=f"{document.name}:{line}")
    for document in DOCUMENTS
    if document.name in PAGES
    for line, text in document.shell
    if "caprun" in text.split("#")[0] and not _NOT_HERE.match(text)
]
_SNIPPETS = [
    pytest.param(block.text, id=f"{document.name}:{block.line}")
    for document in DOCUMENTS
    for block in blocks(document.text)
    if block.language == "python" and "requests." not in block.text  # these need a service
]


def test_the_pages_have_examples():
    assert len(_LINES) >= 15
    assert len(_SNIPPETS) >= 5


@pytest.mark.parametrize("line", _LINES)
def test_every_command_runs_as_printed(line, desk):
    before, _, command = line.rpartition(" | ")
    paths = "\n".join(str(path) for path in sorted(Path("DIR").rglob("*.jpg"))) if before else None
    assert before in ("", 'find DIR -name "*.jpg"')
    program, *arguments = shlex.split(command)
    assert program == "caprun"
    files = {path for path in desk.rglob("*") if path.is_file()}
    result = CliRunner().invoke(caprun.cli.main, arguments, input=paths)
    assert result.exit_code == 0, result.output
    written = {path for path in desk.rglob("*") if path.is_file()} - files
    named = {"--output", "--picture", "--attention", "--xmp"} & set(arguments)
    abstained = "abstains" in result.stderr
    assert bool(written) == bool(named)
    assert result.stdout.strip() or named or abstained


@pytest.mark.parametrize("code", _SNIPPETS)
def test_every_snippet_runs_as_printed(code, desk):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "snippet", "exec"), {})
    assert bool(printed.getvalue().strip()) == ("print(" in code)
