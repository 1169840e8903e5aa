"""The command line. Commands import heavy modules when they need them, so `caprun --help` answers at once."""

import click

from caprun import __version__
from caprun.bulk.command import bulk
from caprun.commands.caption import caption
from caprun.commands.doctor import doctor
from caprun.commands.groups import ErrorsAsSentences
from caprun.commands.models import models
from caprun.commands.watch import watch
from caprun.server.command import serve


class _CaptionByDefault(ErrorsAsSentences):
    """`caprun PATH ...` is short for `caprun caption PATH ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help", "--version"):
            args = ["caption", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_CaptionByDefault, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="caprun")
def main() -> None:
    """Caption photos: `caprun photo.jpg` prints a caption.

    That is short for `caprun caption photo.jpg`; `caprun caption --help` lists its options.
    """


for command in (bulk, caption, doctor, models, serve, watch):
    main.add_command(command)
