"""The commands, settings, options and links in README, CONTRIBUTING and docs/ exist."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import click
import pytest
from click.testing import CliRunner, Result

import caprun.cli
import captioner.cli
from captioner.config import Config, load_config, load_second_config, parse_settings, read_toml
from scripts.commands import blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROGRAMS = {"captioner": captioner.cli.main, "caprun": caprun.cli.main}

_SETTING = r"(?<![\w./-])(?:data|model|train|search|self_critical)\.(?!(?:py|pt|txt|json|toml|schema)\b)[a-z_0-9]+"


@dataclass(frozen=True)
class Document:
    """A page, and the commands and names in it."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def prose(self) -> str:
        """The text with its fenced blocks blanked out."""
        return re.sub(r"^```.*?^```$", lambda block: re.sub("[^\n]", " ", block[0]), self.text, flags=re.S | re.M)

    @property
    def spans(self) -> Iterator[tuple[int, str]]:
        """Line numbers and texts in backticks."""
        prose = self.prose
        for match in re.finditer(r"`([^`]+)`", prose):
            yield prose.count("\n", 0, match.start()) + 1, " ".join(match[1].split())

    @property
    def shell(self) -> Iterator[tuple[int, str]]:
        """Numbered lines of the blocks of shell commands."""
        for block in blocks(self.text):
            if block.language == "sh":
                yield from enumerate(block.text.splitlines(), block.line)

    @property
    def rows(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Header cells and cells of each table row."""
        head: tuple[str, ...] = ()
        for line in self.prose.splitlines():
            if not line.startswith("|"):
                head = ()
                continue
            cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            if head and set("".join(cells)) - set("- "):
                yield head, cells
            head = head or cells


def _documents() -> list[Document]:
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *sorted(DOCS.rglob("*.md"))]
    return [Document(path, path.read_text(encoding="utf-8")) for path in paths]


DOCUMENTS = _documents()


@dataclass(frozen=True)
class Command:
    """A command in a page; `whole` is False if it may be mentioned without its arguments."""

    page: str
    line: int
    text: str
    whole: bool

    @property
    def words(self) -> list[str]:
        """Splits the command like a shell, with a number in place of N and without torchrun."""
        words = ["3" if word == "N" else word for word in shlex.split(self.text, comments=True)]
        return words[words.index("-m") + 1 :] if words[0] == "torchrun" else words

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"


def _commands() -> Iterator[Command]:
    """Yields commands in code blocks, in tables that compare other projects' commands with ours, and in backticks."""
    for document in DOCUMENTS:
        tables = {c for h, cells in document.rows if h == ("theirs", "ours") for c in re.findall("`([^`]+)`", cells[1])}
        found = [(line, text, True) for line, text in document.shell]
        found += [(line, text, text in tables) for line, text in document.spans]
        for line, text, whole in sorted(found):
            for part in re.split(r" && | \| ", text):
                is_ours = re.match(r"(captioner|caprun|torchrun .*-m captioner)( |$)", part)
                if is_ours and "..." not in part:
                    yield Command(document.name, line, part, whole)


COMMANDS = list(_commands())
_EACH = [pytest.param(command, id=command.id) for command in COMMANDS]


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a folder with the files that must exist when a command is parsed, and changes to it."""
    for folder in ("DIR", "flickr8k", "everyday", "shapes", "mine"):
        (tmp_path / folder).mkdir()
    index = (DOCS / "coming-from" / "index.md").read_text(encoding="utf-8")
    (plain,) = (block.text for block in blocks(index) if block.language == "toml")
    for name in ("plain.toml", "mine.toml"):
        (tmp_path / name).write_text(plain, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def parse(command: Command) -> Result:
    program, *arguments = command.words
    if not command.whole and len(arguments) < 2:
        arguments.append("--help")
    result = CliRunner().invoke(PROGRAMS[program], arguments)
    if "Missing argument" in result.output and not command.whole:
        result = CliRunner().invoke(PROGRAMS[program], [*arguments, "DIR"])
    return result


def without_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes commands parse their arguments and do nothing else."""
    for group in PROGRAMS.values():
        for command in group.commands.values():
            monkeypatch.setattr(command, "callback", lambda **_: 0)


def test_every_subcommand_is_documented():
    """Also checks that the lists for the tests below are not empty."""
    used = {tuple(command.words[:2]) for command in COMMANDS if command.whole and command.words[1:]}
    assert {("captioner", name) for name in captioner.cli.main.commands} <= used
    assert {("caprun", "doctor"), ("caprun", "serve"), ("caprun", "bulk"), ("caprun", "photo.jpg")} <= used
    assert any(command.text.startswith("torchrun ") for command in COMMANDS)
    assert sum(command.text.startswith("captioner train --config plain.toml") for command in COMMANDS) >= 8


@pytest.mark.parametrize("command", _EACH)
def test_every_command_parses(command, somewhere, monkeypatch):
    without_running(monkeypatch)
    result = parse(command)
    assert result.exit_code == 0, f"{command.text}\n{result.output}"


_SPANS = [(document.name, line, text) for document in DOCUMENTS for line, text in document.spans]
FRAGMENTS = [
    Command(page, line, f"captioner train {text}", True)
    for page, line, text in _SPANS
    if re.match("--(?!set).* --set ", text)
]
"""Options that a table row adds to the command of another row."""
TRAININGS = [c for c in COMMANDS if c.words[1:2] == ["train"] and c.words[2:] and "--resume" not in c.words]
"""Commands that start a training run; a resumed run keeps its settings."""
SECOND = [c for c in [*TRAININGS, *FRAGMENTS] if not {"--init", "--stage"}.isdisjoint(c.words)]
"""Commands that start from the settings of a trained model."""
FIRST = [c for c in [*TRAININGS, *FRAGMENTS] if c not in SECOND]


@pytest.mark.parametrize("command", [pytest.param(command, id=command.id) for command in SECOND])
def test_the_settings_of_every_run_from_a_trained_model_load(command, somewhere, monkeypatch):
    loaded = []

    def load_and_stop(*arguments: Any, **further: Any) -> NoReturn:
        loaded.append(load_second_config(*arguments, **further))
        raise click.exceptions.Exit

    trained = SimpleNamespace(config=load_config())
    monkeypatch.setattr("captioner.models.checkpoint.load_checkpoint", lambda _: trained)
    monkeypatch.setattr("captioner.commands.train.load_second_config", load_and_stop)
    result = parse(command if "--init" in command.words else replace(command, text=f"{command.text} --init best.pt"))
    assert loaded, f"{command.text}\n{result.output}"


@pytest.mark.parametrize("command", [pytest.param(command, id=command.id) for command in FIRST])
def test_the_settings_of_every_new_training_run_load(command, somewhere, monkeypatch):
    loaded = []

    def load_and_stop(*arguments: Any, **further: Any) -> NoReturn:
        loaded.append(load_config(*arguments, **further))
        raise click.exceptions.Exit

    monkeypatch.setattr("captioner.commands.train.load_config", load_and_stop)
    result = parse(command)
    assert loaded, f"{command.text}\n{result.output}"


@pytest.mark.parametrize("name", sorted({name for *_, text in _SPANS for name in re.findall(_SETTING, text)}))
def test_every_mentioned_setting_exists(name):
    section, key = name.split(".")
    assert hasattr(getattr(Config(), section), key), f"{name} is not a setting"


@pytest.mark.parametrize("setting", sorted({text for *_, text in _SPANS if re.fullmatch(_SETTING + "=.*", text)}))
def test_every_mentioned_value_of_a_setting_is_valid(setting):
    if setting.startswith("self_critical."):
        load_config(parse_settings(["train.stage=self-critical", setting]))
    else:
        load_config(parse_settings([setting]))


def test_every_toml_block_is_a_configuration(tmp_path):
    found = [block.text for document in DOCUMENTS for block in blocks(document.text) if block.language == "toml"]
    found = [text for text in found if "[project]" not in text]  # the pyproject.toml of a package
    assert len(found) >= 2
    for text in found:
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        load_config(read_toml(tmp_path / "config.toml"))


def _known_options() -> set[str]:
    return {
        name
        for group in PROGRAMS.values()
        for command in group.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


_OF_OTHERS = {
    "--build-arg",
    "--data-binary",
    "--gpus",
    "--help",
    "--master-port",
    "--nproc-per-node",
    "--num-cpus",
    "--durations",
    "--slow",
    "--with-programs",
}
"""Options of docker, curl, torchrun, ray, pytest, scripts/test and .ci/run, and options that every program has."""


def _our_options() -> Iterator[str]:
    """Yields our options in backticks; from tables that compare other projects with ours, only those in our column."""
    for document in DOCUMENTS:
        if document.path.parent.name == "coming-from":
            texts = [cells[1] for head, cells in document.rows if head[:2] == ("theirs", "ours")]
        elif document.path.name == "benchmarks.md":
            continue  # names options of bench/, see below
        else:
            texts = [f"`{text}`" for _, text in document.spans]
        for text in texts:
            yield from re.findall(r"(?<=[` ])--[a-z][a-z-]+", " ".join(re.findall("`[^`]+`", text)))


@pytest.mark.parametrize("option", sorted(set(_our_options()) - _OF_OTHERS))
def test_every_mentioned_option_exists(option):
    assert option in _known_options(), f"{option} is not an option"


_BENCHES = sorted(
    {
        text.split("#")[0].strip()
        for document in DOCUMENTS
        for _, text in [*document.shell, *document.spans]
        if re.match(r"python (bench|examples)/\w", text)
    }
)


@pytest.mark.parametrize("command", _BENCHES)
def test_the_options_of_every_mentioned_benchmark_exist(command):
    _, program, *arguments = shlex.split(command)
    assert (ROOT / program).is_file()
    texts = {
        node.value
        for node in ast.walk(ast.parse((ROOT / program).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    assert {word for word in own if word.startswith("--")} <= texts


def test_every_mentioned_extra_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        extra
        for document in DOCUMENTS
        for extras in re.findall(r'"(?:captioner|\.)\[([a-z,-]+)\]"', document.text)
        for extra in extras.split(",")
    }
    assert {"cpu", "gpu", "train", "serve", "ray", "dev"} <= named <= set(project["optional-dependencies"])


@pytest.mark.parametrize("document", [pytest.param(document, id=document.name) for document in DOCUMENTS])
def test_every_link_leads_to_a_file(document):
    for target in re.findall(r"\]\(([^)#\s]+)", document.prose):
        if "://" not in target:
            assert (document.path.parent / target).exists(), target


_PLACES = {"caprun": "runtime/caprun", "capexport": "export/capexport"}
_PATH = r"(captioner|caprun|capexport|runtime|export|tests|bench|scripts|examples|docs)/[\w./-]*"


@pytest.mark.parametrize("path", sorted({text for *_, text in _SPANS if re.fullmatch(_PATH, text)} - {"caprun/"}))
def test_every_mentioned_path_exists(path):
    first, _, rest = path.partition("/")
    place = ROOT / _PLACES.get(first, first) / rest
    assert place.exists() or place.with_suffix(".py").exists()


def test_every_page_is_in_the_navigation_of_the_site():
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))

    def pages(entries: list[dict[str, object]]) -> Iterator[str]:
        for value in (value for entry in entries for value in entry.values()):
            yield from [value] if isinstance(value, str) else pages(value)

    listed = list(pages(site["project"]["nav"]))
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_the_readme_has_at_most_150_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("script", ["test", "check", "docs", "release", "../.ci/run"])
def test_scripts_are_executable_and_valid_bash(script):
    path = ROOT / "scripts" / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)
