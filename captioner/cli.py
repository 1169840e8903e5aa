"""The command line of `captioner`. Commands import torch and other large packages only when they run."""

from __future__ import annotations

import logging

import click

from caprun import __version__
from caprun.commands.groups import ErrorsAsSentences
from captioner.commands.average import average
from captioner.commands.caption import caption
from captioner.commands.data import data
from captioner.commands.evaluate import evaluate
from captioner.commands.export import export
from captioner.commands.importing import import_
from captioner.commands.recipe import recipe
from captioner.commands.train import train

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # without a home folder it warns about a temporary cache


@click.group(cls=ErrorsAsSentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="captioner")
def main() -> None:
    """Train, evaluate and export image captioners. An exported bundle runs with `caprun`, without torch."""


for command in (train, average, caption, evaluate, data, export, import_, recipe):
    main.add_command(command)
