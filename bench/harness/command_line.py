"""Command lines of the benchmarks: the parser, shared options, and a description of the machine."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from caprun.inference import hardware

ROOT = Path(__file__).parents[2]
_SHARED: dict[str, dict[str, Any]] = {
    "--photos": {"type": Path, "default": ROOT / "examples", "help": "Folder of .jpg files.  [default: examples]"},
    "--bundle": {"type": Path, "help": "Bundle to measure.  [default: the packaged one]"},
    "--precision": {"help": "Precision of the bundle.  [default: the fastest measured on such hardware]"},
    "--checkpoint": {
        "type": Path,
        "default": ROOT / "weights" / "checkpoints" / "everyday_lite2.pt",
        "help": "Checkpoint that PyTorch runs.  [default: that of the packaged bundle]",
    },
    "--threads": {"type": int, "default": 1, "help": "CPU threads of each side.  [default: 1]"},
}


def command_line(description: str | None, *shared: str) -> argparse.ArgumentParser:
    """Returns a parser whose help is a module's docstring.

    Args:
        description: the docstring.
        shared: names of options that are defined here, such as `--photos`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in shared:
        parser.add_argument(name, **_SHARED[name])
    return parser


def jpeg_files(parser: argparse.ArgumentParser, folder: Path) -> list[Path]:
    """Returns the .jpg files of a folder, sorted; ends the program with a usage error if there are none."""
    found = sorted(path.resolve() for path in folder.glob("*.jpg"))
    if not found:
        parser.error(f"{folder} has no .jpg files; name another folder with --photos.")
    return found


def machine(packages: Sequence[str]) -> str:
    """Describes the CPU, Python, and the versions of the installed packages."""
    cpu = hardware.cpu()
    features = ", ".join(cpu.features) or platform.machine()
    parts = [f"{cpu.name} ({features})", f"{hardware.cores().usable:g} cores", f"Python {platform.python_version()}"]
    for package in packages:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)
