"""Click groups whose commands report an error as one line."""

import io
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import click

from caprun.errors import CaprunError, UsageError


class ErrorsAsSentences(click.Group):
    """A group whose commands fail with one line on stderr: exit code 2 for usage errors, 1 for others."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Shows the help if there are no arguments."""
        return super().parse_args(ctx, args or ["--help"])

    def main(self, *args: Any, **extra: Any) -> Any:
        """Runs the command; see `click.Command.main`."""
        run: Callable[..., Any] = partial(super().main, *args)
        if not extra.pop("standalone_mode", True):
            return run(standalone_mode=False, **extra)
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # closed before the start; another file could get its descriptor
                setattr(sys, name, open(os.devnull, mode, errors="backslashreplace"))  # noqa: PTH123, SIM115
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a file name may have bytes that are not UTF-8
        try:
            code = run(standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else self.name
            _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`.", 2)
        except click.ClickException as error:
            _fail(error.format_message(), 1)
        except CaprunError as error:
            _fail(str(error), 2 if isinstance(error, UsageError) else 1)
        except (KeyboardInterrupt, click.Abort):
            _fail("Interrupted.", 128 + signal.SIGINT)
        except OSError as error:
            # standard output cannot be written, and the flush at exit must not fail too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):  # the reader closed the pipe
                sys.exit(1)
            _fail(str(error), 1)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)
