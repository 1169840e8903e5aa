"""The command `caprun bulk` starts Ray, checks its options and reports failed photos."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from caprun.cli import main

pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install '.[ray]'")

from tests.caprun.bulk.test_bulk import TINY, rows_in


@pytest.mark.slow
def test_the_command_starts_ray_locally_and_reports_failed_photos(photo: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "caprun", "bulk", "--engine", "ray", str(photo), str(tmp_path / "none.png")]
    command += ["--output", str(output), "--workers", "1", "--beam-size", "1", "--model", str(TINY)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    error = "Error: 1 of 2 photos could not be captioned; their rows say why.\n"
    # Ray warns when processes start slowly, whatever its log settings
    said = [line for line in run.stdout.splitlines() if "(raylet)" not in line]
    assert (run.returncode, said, run.stderr) == (1, [], f"2 photos in {output}.\n{error}")
    assert "does not exist" in rows_in(output)[str(tmp_path / "none.png")]["error"]


def test_without_ray_one_line_names_what_to_install(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    result = CliRunner().invoke(main, ["bulk", str(photo), "--output", str(tmp_path / "out"), "--model", str(TINY)])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert 'pip install "captioner[ray]"' in result.stderr
    assert not (tmp_path / "out").exists()


def test_help_imports_no_heavy_modules() -> None:
    script = "import sys, caprun.cli as c; c.bulk.main(['--help'], standalone_mode=False); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"ray", "pyarrow", "numpy", "onnxruntime"}.isdisjoint(run.stdout.split())


@pytest.mark.parametrize("given", ["0", "3:2", "x", "2:", ":", "-1"])
def test_workers_that_are_not_a_number_or_a_range_are_refused(given: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bulk", "x.png", "--output", str(tmp_path / "out"), f"--workers={given}"])
    assert result.exit_code == 2
    assert "2:8" in result.stderr
