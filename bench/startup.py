"""The whole process: `caprun photo.jpg` against importing what it stands on, and `caprun --help` against Python itself.

    python bench/startup.py
    python bench/startup.py --photo photo.jpg --rounds 31 -- --beam-size 1     # options of caprun after --

A pair takes turns, each side first every other time, so that a slow moment of the machine hits both; a ratio is the
median of the turns' ratios. All files are in the page cache and Python's byte code is written, because each command
runs twice before the clock starts. Memory is the peak resident set of a process, at least that of this one, some 15 MB.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
IMPORTS = ("-c", "import numpy, PIL.Image, onnxruntime")
NOTHING = ("-c", "pass")
HEAVY = ("numpy", "PIL", "onnxruntime")


class Run(NamedTuple):
    """One process, from its start to its end."""

    seconds: float
    peak: int
    """Bytes."""


def run(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Start a process, wait for it, and ask the system what it took.

    Raises:
        SystemExit: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)  # this child's own usage, which getrusage adds up over all of them
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {said.decode(errors='replace').strip()}")
    return Run(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def compare(
    name: str, command: Sequence[str], base_name: str, base: Sequence[str], rounds: int, environment: Mapping[str, str]
) -> str:
    """Time both in turns; a row of the table."""
    for warm_up in (command, base) * 2:
        run(warm_up, environment)
    ours: list[Run] = []
    theirs: list[Run] = []
    for turn in range(rounds):
        sides = [(ours, command), (theirs, base)]
        for runs, side in sides if turn % 2 else reversed(sides):
            runs.append(run(side, environment))
    low, ratio, high = statistics.quantiles((a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True)), n=4)
    mine, other = (1000 * statistics.median(r.seconds for r in runs) for runs in (ours, theirs))
    peaks = [max(r.peak for r in runs) / 1e6 for runs in (ours, theirs)]
    return (
        f"| {name} | {mine:.0f} | {base_name} | {other:.0f} | {ratio:.2f} ({low:.2f} to {high:.2f}) "
        f"| {peaks[0]:.0f} | {peaks[1]:.0f} |"
    )


def imported(command: Sequence[str]) -> list[str]:
    """Which of the heavy packages a command of this Python imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True, cwd=ROOT
    )
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    return [name for name in HEAVY if name in modules]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, default=ROOT / "examples" / "astronaut.jpg")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("options", nargs="*", help="of caprun, after --")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds takes 2 or more, for quartiles")
    script = shutil.which("caprun", path=str(Path(sys.executable).parent))
    if script is None:
        raise SystemExit(f"There is no caprun beside {sys.executable}: pip install '.[cpu]' there first.")
    python = sys.executable
    photo = [script, str(arguments.photo), *arguments.options]
    name = f"`caprun {' '.join([arguments.photo.name, *arguments.options])}`"
    imports = f'`python {IMPORTS[0]} "{IMPORTS[1]}"`'
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {arguments.rounds} rounds\n")
    print("| command | ms | against | ms | ratio (quartiles) | its peak MB | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for title, command, base_name, base in (
        (name, photo, imports, IMPORTS),
        ("`caprun --help`", [script, "--help"], "`python -c pass`", NOTHING),
        ("`caprun --version`", [script, "--version"], "`python -c pass`", NOTHING),
        ('`python -c "import click"`', [python, "-c", "import click"], "`python -c pass`", NOTHING),
    ):
        print(compare(title, command, base_name, [python, *base], arguments.rounds, environment), flush=True)
    for option in ("--help", "--version"):
        found = imported(["-m", "caprun", option])
        print(f"\n`caprun {option}` imports {', '.join(found) or 'none of ' + ', '.join(HEAVY)}", end="")
    print()


if __name__ == "__main__":
    main()
