"""The command line. A command imports what it needs when it is run."""

from __future__ import annotations

import click

from caprun import __version__
from caprun.commands.groups import ErrorsAsSentences
from captioner.commands.average import average
from captioner.commands.caption import caption
from captioner.commands.data import data
from captioner.commands.evaluate import evaluate
from captioner.commands.export import export
from captioner.commands.recipe import recipe
from captioner.commands.train import train


@click.group(cls=ErrorsAsSentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="captioner")
def main() -> None:
    """Train an image captioner, export it, and measure it. What it exports runs with `caprun`, without torch."""


for command in (train, average, caption, evaluate, data, export, recipe):
    main.add_command(command)
