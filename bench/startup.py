"""Times whole processes: `caprun photo.jpg` against importing its packages, `caprun --help` against Python itself.

    python bench/startup.py
    python bench/startup.py --photo photo.jpg --rounds 31 -- --beam-size 1     # options of caprun after --

The two commands of a row take turns. Each runs twice before the clock starts, so that files are in the page cache and
Python's byte code is written. Memory is the peak resident set of a process. It is at least that of the benchmark
itself, some 15 MB.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.command_line import ROOT, command_line, machine
from harness.tables import header, row
from harness.turns import in_turns, ratios, with_quartiles

IMPORTS = ("-c", "import numpy, PIL.Image, onnxruntime")
NOTHING = ("-c", "pass")


class Run(NamedTuple):
    """Wall time and peak memory of a process."""

    seconds: float
    peak: int
    """Bytes."""


def run(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Runs a command to its end.

    Raises:
        SystemExit: the command failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)  # unlike getrusage, the usage of this child only
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise SystemExit(f"Error: {' '.join(command)} failed: {errors.decode(errors='replace').strip()}")
    return Run(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def compare(
    name: str, command: Sequence[str], base_name: str, base: Sequence[str], rounds: int, environment: Mapping[str, str]
) -> str:
    """Times two commands in turns and formats a row of the table."""
    sides = {"ours": lambda _: run(command, environment), "base": lambda _: run(base, environment)}
    in_turns(sides, range(2))  # warm-up
    ours, theirs = in_turns(sides, range(rounds)).values()
    our_times, their_times = ([1000 * one.seconds for one in runs] for runs in (ours, theirs))
    return row(
        name,
        f"{statistics.median(our_times):.0f}",
        base_name,
        f"{statistics.median(their_times):.0f}",
        with_quartiles(ratios(our_times, their_times)),
        *(f"{max(one.peak for one in runs) / 1e6:.0f}" for runs in (ours, theirs)),
    )


def main() -> None:
    """Prints a row for each command."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--photo", type=Path, default=ROOT / "examples" / "astronaut.jpg", help="Photo.  [default: astronaut.jpg]"
    )
    parser.add_argument("--rounds", type=int, default=21, help="Processes of each command; 2 or more.  [default: 21]")
    parser.add_argument("options", nargs="*", help="Options of caprun, after --.")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("Quartiles need two rounds; raise --rounds.")
    script = shutil.which("caprun", path=str(Path(sys.executable).parent))
    if script is None:
        raise SystemExit(f"Error: There is no caprun next to {sys.executable}; run pip install '.[cpu]' there.")
    python = sys.executable
    photo = [script, str(arguments.photo), *arguments.options]
    name = f"`caprun {' '.join([arguments.photo.name, *arguments.options])}`"
    imports = f'`python {IMPORTS[0]} "{IMPORTS[1]}"`'
    print(f"{machine(['numpy', 'onnxruntime'])}, {arguments.rounds} rounds\n")
    print(header("command", "ms", "against", "ms", "ratio (quartiles)", "its peak, MB", "the other's peak, MB"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for title, command, base_name, base in (
        (name, photo, imports, IMPORTS),
        ("`caprun --help`", [script, "--help"], "`python -c pass`", NOTHING),
        ("`caprun --version`", [script, "--version"], "`python -c pass`", NOTHING),
        ('`python -c "import click"`', [python, "-c", "import click"], "`python -c pass`", NOTHING),
    ):
        print(compare(title, command, base_name, [python, *base], arguments.rounds, environment), flush=True)


if __name__ == "__main__":
    main()
