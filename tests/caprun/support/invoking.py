"""Runs `caprun` in the test process."""

from click.testing import CliRunner, Result

from caprun.cli import main


def invoke(*arguments: object, stdin: bytes = b"") -> Result:
    """Runs a command; an exception other than SystemExit fails the test."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result
