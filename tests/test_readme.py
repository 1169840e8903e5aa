"""What the README tells people to type is accepted, and the settings that it names are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner, Result

import caprun.cli
import captioner.cli
from captioner.config import Config, load_config, load_second_config, parse_settings

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PROGRAMS = {"captioner": captioner.cli.main, "caprun": caprun.cli.main}

_SETTING = r"(?<![\w./-])(?:data|model|train|search)\.(?!(?:py|pt|txt|json|toml)\b)[a-z_0-9]+"


@dataclass(frozen=True)
class Command:
    """A command that somebody may type; `whole` unless it may be mentioned without what it is about."""

    line: int
    text: str
    whole: bool

    @property
    def words(self) -> list[str]:
        """What the shell makes of it, with a number where the README says N, and without torchrun."""
        words = ["3" if word == "N" else word for word in shlex.split(self.text, comments=True)]
        return words[words.index("-m") + 1 :] if words[0] == "torchrun" else words


def line_of(position: int) -> int:
    return README.count("\n", 0, position) + 1


_PROSE = re.sub(r"^```.*?^```$", lambda block: re.sub("[^\n]", " ", block[0]), README, flags=re.S | re.M)
"""The README with its blocks of other languages blanked out."""
_SPANS = [
    (line_of(match.start()), " ".join(match[1].replace(r"\|", "|").split()))
    for match in re.finditer(r"`([^`]+)`", _PROSE)
]
"""Lines and texts in backticks."""


def commands() -> Iterator[Command]:
    """Those in backticks and in indented code."""
    table = range(line_of(README.index("<summary>Commands")), line_of(README.index("<summary>Options")))
    found = [(line, text, line in table) for line, text in _SPANS]
    found += [(i, text[4:], True) for i, text in enumerate(_PROSE.splitlines(), 1) if text.startswith("    ")]
    for line, text, whole in sorted(found):
        for part in text.split(" && "):
            is_ours = re.match(r"(captioner|caprun|torchrun .*-m captioner)( |$)", part)
            if is_ours and "..." not in part:
                yield Command(line, part, whole)


COMMANDS = list(commands())


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that must exist before a command is run."""
    (tmp_path / "DIR").mkdir()
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", README, flags=re.S | re.M)
    (tmp_path / "plain.toml").write_text(toml, encoding="utf-8")
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
    """Commands parse what they are given, and do nothing."""
    for group in PROGRAMS.values():
        for command in group.commands.values():
            monkeypatch.setattr(command, "callback", lambda **_: 0)


def test_every_subcommand_is_found_in_the_readme():
    """So that the tests below are not of an empty list."""
    used = {tuple(command.words[:2]) for command in COMMANDS if command.whole and command.words[1:]}
    for subcommand in ("train", "evaluate", "export", "caption"):
        assert ("captioner", subcommand) in used
    assert {("caprun", "doctor"), ("caprun", "photo.jpg"), ("caprun", "--model")} <= used
    assert "captioner data DIR" in {command.text for command in COMMANDS}
    assert any(command.text.startswith("torchrun ") for command in COMMANDS)
    assert sum(command.text.startswith("captioner train --config plain.toml") for command in COMMANDS) >= 8


@pytest.mark.parametrize("command", [pytest.param(c, id=f"line {c.line}") for c in COMMANDS])
def test_every_command_parses(command, somewhere, monkeypatch):
    without_running(monkeypatch)
    result = parse(command)
    assert result.exit_code == 0, f"{command.text}\n{result.output}"


FRAGMENTS = [Command(line, f"captioner train {text}", True) for line, text in _SPANS if re.match("--.* --set ", text)]
"""Such as what is to be added to the command of another row."""
TRAININGS = [c for c in COMMANDS if c.words[1:2] == ["train"] and c.words[2:] and "--resume" not in c.words]
"""A training is resumed with the settings that it began with."""
SECOND = [c for c in [*TRAININGS, *FRAGMENTS] if not {"--init", "--stage"}.isdisjoint(c.words)]
"""A training that begins with a trained model's settings."""
FIRST = [c for c in [*TRAININGS, *FRAGMENTS] if c not in SECOND]


@pytest.mark.parametrize("command", [pytest.param(c, id=f"line {c.line}") for c in SECOND])
def test_the_settings_of_every_second_training_load(command, somewhere, monkeypatch):
    loaded = []
    load = load_second_config

    def load_and_stop(*arguments: object, **further: object) -> NoReturn:
        loaded.append(load(*arguments, **further))
        raise click.exceptions.Exit

    trained = SimpleNamespace(config=load_config(parse_settings([])))
    monkeypatch.setattr("captioner.training.checkpoint.load_checkpoint", lambda _: trained)
    monkeypatch.setattr("captioner.commands.train.load_second_config", load_and_stop)
    result = parse(command if "--init" in command.words else replace(command, text=f"{command.text} --init best.pt"))
    assert loaded, f"{command.text}\n{result.output}"


@pytest.mark.parametrize("command", [pytest.param(c, id=f"line {c.line}") for c in FIRST])
def test_the_settings_of_every_training_load(command, somewhere, monkeypatch):
    loaded = []

    def load_and_stop(*arguments: object, **further: object) -> NoReturn:
        loaded.append(load_config(*arguments, **further))
        raise click.exceptions.Exit

    monkeypatch.setattr("captioner.commands.train.load_config", load_and_stop)
    result = parse(command)
    assert loaded, f"{command.text}\n{result.output}"


@pytest.mark.parametrize("name", sorted({name for _, text in _SPANS for name in re.findall(_SETTING, text)}))
def test_every_setting_that_is_named_exists(name):
    section, key = name.split(".")
    assert hasattr(getattr(Config(), section), key), f"{name} is no setting"


@pytest.mark.parametrize("setting", sorted({text for _, text in _SPANS if re.fullmatch(_SETTING + "=.*", text)}))
def test_every_setting_with_a_value_can_have_it(setting):
    load_config(parse_settings([setting]))


def our_options() -> Iterator[str]:
    """Options of ours: in the text, and in tables where it is not of theirs that they speak."""
    column = 0
    for row in _PROSE.splitlines():
        if not row.startswith("|"):
            column = 0
            yield from re.findall(r"`(--[a-z-]+)", row)
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]
        if cells[1] == "option":
            column = 1
        elif cells[2] == "ours":
            column = 2
        elif column:
            yield from re.findall(r"`(--[a-z-]+)", cells[column])


@pytest.mark.parametrize("option", sorted(set(our_options())))
def test_every_option_that_is_named_exists(option):
    known = {
        name
        for group in PROGRAMS.values()
        for command in group.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
    }
    assert option in known, f"{option} is no option"
