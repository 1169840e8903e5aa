"""The option of a setting has the type, range and default of the setting's field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import click
import pytest
from click.testing import CliRunner

from captioner.cli import main
from captioner.commands.options import EXPORT, TRAINING, setting_options
from captioner.config import Config, ExportSettings, Stage, decoder_names, read_toml
from captioner.recipes.recipe import read_recipe


def option(command: str, name: str) -> click.Option:
    return next(p for p in main.commands[command].params if isinstance(p, click.Option) and name in p.opts)


def given_by(names: tuple[str, ...], *arguments: str) -> Mapping[str, Any]:
    """Returns the values that a command with the options of these settings receives."""
    received: list[Mapping[str, Any]] = []
    command = click.command()(setting_options(*names)(lambda given: received.append(given)))
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return received[0]


def test_the_values_of_a_literal_type_are_the_choices_of_its_option():
    kind = option("train", "--stage").type
    assert isinstance(kind, click.Choice)
    assert tuple(kind.choices) == get_args(Stage)


def test_the_choices_of_decoder_include_decoders_of_installed_packages():
    kind = option("train", "--decoder").type
    assert isinstance(kind, click.Choice)
    assert tuple(kind.choices) == decoder_names()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("--epochs", "[default: 8; x>=1]"),
        ("--decoder-layers", "[default: 1; 1<=x<=100]"),
        ("--stage", "[default: cross-entropy]"),
        ("--splits", "[default: 80, 10, 10]"),
    ],
)
def test_help_shows_default_and_range_of_the_field(name, shown):
    record = option("train", name).get_help_record(click.Context(main.commands["train"]))
    assert record is not None
    assert record[1].endswith(shown)


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--regions", "257"], ["--fine-tune", "-2"], ["--lr", "11"]])
def test_a_value_out_of_the_fields_range_is_a_usage_error(arguments):
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.stderr


def test_only_given_options_become_settings():
    assert given_by(TRAINING) == {}
    epochs = str(Config().train.epochs)
    given = given_by(TRAINING, "--epochs", epochs, "--splits", "1", "1", "0", "--decoder-layers", "2")
    assert given == {"train": {"epochs": 8}, "data": {"splits": (1, 1, 0)}, "model": {"layers": 2}}


def test_export_options_set_the_fields_of_its_settings():
    given = given_by(EXPORT, "--precision", "int8", "--precision", "fp16", "--licence", "x")
    assert ExportSettings(**given["export"]) == ExportSettings(precisions=("int8", "fp16"), licence="x")


def test_a_recipe_keeps_text_that_looks_like_toml(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[[stage]]\nname = "a"\nmodel.encoder = "true"\ndata.sided_words = ["a\\nb", "\'"]\n')
    config = read_recipe(file).stages[0].config
    assert (config.model.encoder, config.data.sided_words) == ("true", ("a\nb", "'"))
    assert read_toml(file)["stage"][0]["model"] == {"encoder": "true"}
