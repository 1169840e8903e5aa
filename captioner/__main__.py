"""Runs the command line as `python -m captioner`."""

from captioner.cli import main

main(prog_name="captioner")
