"""METEOR equals pycocoevalcap's, and a message explains if Java is missing, fails or hangs."""

import shutil
import stat
import time

import pytest

from captioner.evaluation import meteor as module
from captioner.evaluation.meteor import Meteor
from captioner.evaluation.metrics import score

CANDIDATES = ["a man rides a wave", "", "ein schönes haus", "two dogs run"]
REFERENCES = [
    ["a surfer rides a wave", "a man is surfing"],
    ["a cat"],
    ["ein schönes haus", ""],
    ["dogs are running on grass", "two dogs run", "some dogs"],
]

pytestmark = pytest.mark.usefixtures("with_java")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")


def words_of(sentences: list[str]) -> list[list[str]]:
    return [sentence.split() for sentence in sentences]


@pytest.fixture
def java(tmp_path):
    """Returns a function that makes a METEOR with a shell script as `java`, and the list of its warnings."""

    def make(script: str) -> tuple[Meteor, list[str]]:
        java = tmp_path / "java"
        java.write_text(f"#!/bin/sh\n{script}\n")
        java.chmod(java.stat().st_mode | stat.S_IXUSR)
        said: list[str] = []
        return module._until_it_fails(str(java), tmp_path / "meteor-1.5.jar", said.append), said

    return make


@pytest.mark.slow
@needs_java
def test_meteor_equals_pycocoevalcap():
    package = pytest.importorskip("pycocoevalcap.meteor.meteor")
    theirs = package.Meteor()
    try:
        expected, _ = theirs.compute_score(dict(enumerate(REFERENCES)), {i: [c] for i, c in enumerate(CANDIDATES)})
    finally:
        for stream in (theirs.meteor_p.stdout, theirs.meteor_p.stderr):
            stream.close()
    ours = module.find_meteor(pytest.fail)
    assert ours is not None
    found = ours(words_of(CANDIDATES), [words_of(of_photo) for of_photo in REFERENCES])
    assert score(CANDIDATES, REFERENCES, ours)["meteor"] == found == expected


def test_java_reads_a_line_per_caption_and_as_many_references_for_each_photo(java, tmp_path):
    meteor, said = java('cat "$6" "$7" > read; echo "$@" > arguments; echo "Final score:            0.25"')
    assert meteor([["a", "dog"], []], [[["a", "dog"]], [["one"], ["zwei", "schöne"]]]) == 0.25
    assert not said
    assert (tmp_path / "read").read_text(encoding="utf-8") == "a dog\n\na dog\na dog\none\nzwei schöne\n"
    assert (tmp_path / "arguments").read_text().endswith(" -l en -norm -r 2\n")


@pytest.mark.parametrize(
    ("missing", "reason"), [("java", "Java is not installed"), ("jar", "pycocoevalcap is not installed")]
)
def test_without_java_or_package_meteor_is_left_out_with_one_line(monkeypatch, missing, reason):
    monkeypatch.setattr(module.shutil, "which", lambda name: None if missing == "java" else "/usr/bin/java")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    said: list[str] = []
    assert module.find_meteor(said.append) is None
    (line,) = said
    assert line.startswith("METEOR is left out")
    assert reason in line
    assert "meteor" not in score(["a dog"], [["a dog"]])


@pytest.mark.parametrize("script", ["exit 1", "true", "echo no number"])
def test_if_java_fails_meteor_is_left_out_with_a_warning(java, script):
    meteor, said = java(script)
    assert meteor([["a"]], [[["a"]]]) is None
    assert meteor([["a"]], [[["a"]]]) is None
    assert said == ["warning: METEOR is left out from here on because its Java program failed."]


def test_a_java_that_hangs_is_killed(java, monkeypatch):
    monkeypatch.setattr(module, "_START", 0.2)
    monkeypatch.setattr(module, "_EACH", 0.0)
    meteor, said = java("exec sleep 600")
    began = time.monotonic()
    assert meteor([["a"]], [[["a"]]]) is None
    assert time.monotonic() - began < 300  # well before the script would have ended
    assert said == ["warning: METEOR is left out from here on because its Java program took too long."]


def test_if_java_cannot_be_started_meteor_is_left_out_with_one_warning(java, tmp_path):
    meteor, said = java("exit 0")
    (tmp_path / "java").unlink()
    assert meteor([["a"]], [[["a"]]]) is None
    assert len(said) == 1
