"""`python -m caprun`: the command line."""

from caprun.cli import main

main(prog_name="caprun")
