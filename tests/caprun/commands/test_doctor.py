"""`caprun doctor` describes the installation and fails if it is broken."""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from caprun import engine
from caprun.cli import main
from caprun.inference import cuda, devices, hardware

EditManifest = Callable[[Path, Callable[[dict[str, Any]], object]], None]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caprun.commands.doctor.MOST_TIMES", 1)


def test_a_bundle_is_examined_and_timed(tiny: Path) -> None:
    result = run("--model", tiny, "--threads", 1)
    assert (result.exit_code, result.stderr) == (0, "")
    for said in ("onnxruntime:", "python:", "cores:", "decode jpeg ms:", "encoder ms:", "greedy:", "beam 3:"):
        assert said in result.stdout
    assert f"name: tiny\n  path: {tiny}\n  state: intact, checksums match\n" in result.stdout


@pytest.mark.skipif(
    not (files("caprun_weights") / "everyday_lite2").is_dir(), reason="the packaged weights are not there yet"
)
def test_the_packaged_model_is_intact() -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.search(r"^  onnxruntime(-gpu)?: \d", result.stdout, re.MULTILINE)
    assert "CPUExecutionProvider" in result.stdout
    assert "state: intact, checksums match\n" in result.stdout


def test_a_missing_packaged_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caprun_weights.DEFAULT", "no_such_model")
    result = run()
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: There is no bundle at .*no_such_model.*\n", result.stderr)


def test_json_is_one_object_with_every_section(tiny: Path) -> None:
    found = json.loads(run("--model", tiny, "--json").stdout)
    assert set(found) == {"versions", "machine", "costs", "bundle"}
    assert found["bundle"]["name"] == "tiny"
    assert found["bundle"]["precision"] in found["bundle"]["precisions"]
    costs = found["costs"]
    assert all(costs[stage] > 0 for stage in ("load_ms", "decode_jpeg_ms", "resize_ms", "encoder_ms", "peak_memory_mb"))
    for search in ("greedy", "beam_3"):
        assert costs[search]["caption_ms"] > costs[search]["decoder_and_search_ms"] >= 0


@pytest.mark.parametrize("file", ["MODEL_CARD.md", "decoder_model.onnx"])
def test_one_altered_byte_in_any_file_is_found(bundle: Path, file: str) -> None:
    content = bytearray((bundle / file).read_bytes())
    content[-1] ^= 1
    (bundle / file).write_bytes(content)
    result = run("--model", bundle)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {bundle / file} has been altered")
    assert "sound" not in result.stdout


def test_json_has_the_error_in_addition_to_versions_and_machine(tmp_path: Path) -> None:
    result = run("--model", tmp_path / "none", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert set(found) == {"versions", "machine", "error"}
    assert result.stderr == f"Error: {found['error']}\n"


def test_a_torchscript_bundle_is_refused_with_the_command_that_runs_it(
    bundle: Path, edit_manifest: EditManifest
) -> None:
    edit_manifest(bundle, lambda data: data.update(format="torchscript"))
    result = run("--model", bundle)
    assert result.exit_code == 1
    assert "captioner caption --model" in result.stderr


def test_two_onnx_runtime_packages_are_explained(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.2", "onnxruntime-gpu": "1.3"}
    monkeypatch.setattr(devices, "installed_packages", lambda: both)
    result = run("--model", tiny)
    assert result.exit_code == 0
    assert "one installed last hides the other" in result.stdout


def test_a_cuda_problem_is_reported(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "problem", lambda: "The driver is too old.")
    assert "cuda:" not in run("--model", tiny).stdout, "the package is for CPUs"
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    result = run("--model", tiny)
    assert result.exit_code == 0
    assert "cuda: The driver is too old.\n" in result.stdout
    assert "device: cpu\n" in result.stdout


def test_a_model_in_the_environment_is_named_unless_one_is_given(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "packaged_bundle", lambda: tiny)
    monkeypatch.setenv("CAPRUN_MODEL", "/somewhere/mine")
    assert "caprun doctor --model /somewhere/mine" in run().stdout
    assert "/somewhere/mine" not in run("--model", tiny).stdout


X86 = "processor\t: 0\nmodel name\t: EPYC\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\nprocessor\t: 1\nmodel name\t: X\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


@pytest.mark.parametrize(("text", "features"), [(X86, ["avx2", "avx512f", "avx512_vnni"]), (ARM, ["asimddp", "i8mm"])])
def test_processor_features_are_read_from_proc_cpuinfo(system: Path, text: str, features: list[str]) -> None:
    (system / "proc" / "cpuinfo").write_text(text)
    found = hardware.cpu()
    assert found.features == features
    assert found.name == "EPYC" or text == ARM


def test_features_and_quota_are_unknown_without_system_files(system: Path) -> None:
    assert hardware.cpu().features == []
    assert hardware.cores().quota is None


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder that replaces /proc and the control groups, both empty until a test writes files there."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "cgroup" / "box" / "job").mkdir(parents=True)
    monkeypatch.setattr(hardware, "PROC", tmp_path / "proc")
    monkeypatch.setattr(hardware, "CGROUP", tmp_path / "cgroup")
    return tmp_path


@pytest.mark.parametrize(
    ("group", "limits", "quota"),
    [
        ("0::/box/job\n", {"cpu.max": "max 100000", "box/cpu.max": "150 100", "box/job/cpu.max": "200 100"}, 1.5),
        ("0::/a/host's/path\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/box/job\n", {"box/cpu.max": "max 100000"}, None),
    ],
)
def test_the_quota_is_the_lowest_limit_of_the_control_groups(
    system: Path, group: str, limits: dict[str, str], quota: float | None
) -> None:
    (system / "proc" / "self" / "cgroup").write_text(group)
    for file, text in limits.items():
        (system / "cgroup" / file).write_text(text)
    assert hardware.cores().quota == quota


def test_a_quota_below_the_cores_suggests_threads(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: hardware.Cores(8, 4, 1.5))
    assert "advice: use --threads 2" in run("--model", tiny).stdout
    assert hardware.cores().usable == 1.5


def test_peak_memory_is_the_high_water_mark_of_this_process(system: Path) -> None:
    (system / "proc" / "self" / "status").write_text("Name:\tx\nVmPeak:\t 99 kB\nVmHWM:\t 12 kB\nVmRSS:\t 5 kB\n")
    assert hardware.peak_memory() == 12 * 1024
