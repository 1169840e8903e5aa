"""`caprun doctor`: it says what is there, refuses what is not sound, and reads what the system says of itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from caprun.cli import main
from caprun.commands import doctor_report
from caprun.inference import hardware

EditManifest = Callable[[Path, Callable[[dict[str, Any]], object]], None]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_report, "MOST_TIMES", 2)


def test_a_bundle_is_examined_and_timed(tiny: Path) -> None:
    result = run("--model", tiny, "--threads", 1)
    assert (result.exit_code, result.stderr) == (0, "")
    for said in ("onnxruntime:", "python:", "cores:", "decode a JPEG:", "encoder:", "decoder, greedy:", "beam 3:"):
        assert said in result.stdout
    assert "4, 0.0 MB, checksums right" in result.stdout
    assert result.stdout.endswith(f"tiny, {tiny}: sound\n")


def test_values_stand_below_each_other(tiny: Path) -> None:
    for block in run("--model", tiny).stdout.split("\n\n"):
        starts = {len(line) - len(line.partition(":")[2].lstrip()) for line in block.splitlines()}
        assert len(starts) == 1, block


def test_json_is_one_object_with_everything(tiny: Path) -> None:
    found = json.loads(run("--model", tiny, "--json").stdout)
    assert set(found) == {"versions", "machine", "costs", "bundle"}
    assert found["bundle"]["name"] == "tiny"
    assert found["bundle"]["precision"] in found["bundle"]["precisions"]
    assert all(found["costs"][stage] > 0 for stage in ("load", "jpeg", "resize", "encoder", "peak_memory"))
    for search in ("greedy", "beam 3"):
        costs = found["costs"][search]
        assert costs["caption"] > costs["steps"] * costs["step"] / 2 > 0


@pytest.mark.parametrize("file", ["MODEL_CARD.md", "decoder_model.onnx"])
def test_one_altered_byte_in_any_file_is_found(bundle: Path, file: str) -> None:
    content = bytearray((bundle / file).read_bytes())
    content[-1] ^= 1
    (bundle / file).write_bytes(content)
    result = run("--model", bundle)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {bundle / file} has been altered")
    assert "sound" not in result.stdout


def test_json_says_what_is_wrong_and_what_is_not(tmp_path: Path) -> None:
    result = run("--model", tmp_path / "none", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert set(found) == {"versions", "machine", "error"}
    assert result.stderr == f"Error: {found['error']}\n"


def test_a_bundle_of_torchscript_is_refused_with_what_runs_it(bundle: Path, edit_manifest: EditManifest) -> None:
    edit_manifest(bundle, lambda data: data.update(format="torchscript"))
    result = run("--model", bundle)
    assert result.exit_code == 1
    assert "captioner caption --model" in result.stderr


def test_two_packages_of_onnx_runtime_are_explained(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.2", "onnxruntime-gpu": "1.3"}
    monkeypatch.setattr(doctor_report, "installed_packages", lambda: both)
    result = run("--model", tiny)
    assert result.exit_code == 0
    assert "one installed last hides the other" in result.stdout
    assert json.loads(run("--model", tiny, "--json").stdout)["versions"]["conflict"]


def test_another_model_in_the_environment_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_report, "packaged_bundle", lambda: tiny)
    monkeypatch.setenv("CAPRUN_MODEL", "/somewhere/mine")
    assert "caprun doctor --model /somewhere/mine" in run().stdout
    assert "/somewhere/mine" not in run("--model", tiny).stdout


X86 = "processor\t: 0\nmodel name\t: EPYC\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\nprocessor\t: 1\nmodel name\t: X\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


def test_linux_says_what_the_processor_can_do(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    for machine, text, has in (
        ("x86_64", X86, {"AVX2", "AVX512", "VNNI"}),
        ("aarch64", ARM, {"NEON", "dot product", "I8MM"}),
    ):
        monkeypatch.setattr(hardware.platform, "machine", lambda machine=machine: machine)
        (system / "proc" / "cpuinfo").write_text(text)
        found = hardware.cpu()
        assert found.features is not None
        assert {name for name, there in found.features.items() if there} == has
        assert len(found.features) == 5
    monkeypatch.setattr(hardware.platform, "machine", lambda: "x86_64")
    (system / "proc" / "cpuinfo").write_text(X86)
    assert hardware.cpu().name == "EPYC"


def test_macos_says_what_the_processor_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    monkeypatch.setattr(hardware.platform, "machine", lambda: "arm64")
    said = (
        "machdep.cpu.brand_string: Apple M2\nhw.optional.AdvSIMD: 1\n"
        "hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_SVE: 0\n"
    )
    monkeypatch.setattr(hardware, "_sysctl", lambda: said)
    found = hardware.cpu()
    assert found.name == "Apple M2"
    assert found.features == {"NEON": True, "dot product": True, "I8MM": False, "BF16": False, "SVE": False}


def test_what_the_system_does_not_say_is_unknown(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.cpu().features is None
    assert hardware.cores().quota is None
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    monkeypatch.setattr(hardware, "_sysctl", lambda: "")
    assert hardware.cpu().features is None


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that says nothing of itself, until something is written to its /proc and its control groups."""
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
        ("4:cpu,cpuacct:/\n3:memory:/\n", {"cpu/cpu.cfs_quota_us": "300\n", "cpu/cpu.cfs_period_us": "100\n"}, 3.0),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_the_tightest_limit_of_the_control_groups_counts(
    system: Path, group: str, limits: dict[str, str], quota: float | None
) -> None:
    (system / "proc" / "self" / "cgroup").write_text(group)
    (system / "cgroup" / "cpu").mkdir()
    for file, text in limits.items():
        (system / "cgroup" / file).write_text(text)
    assert hardware.cores().quota == quota


def test_a_quota_below_the_cores_suggests_threads(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: hardware.Cores(8, 4, 1.5))
    assert "4 of 8, with time for 1.5: use --threads 2" in run("--model", tiny).stdout
    assert hardware.cores().usable == 1.5


def test_peak_memory_is_this_process_s_own(system: Path) -> None:
    (system / "proc" / "self" / "status").write_text("Name:\tx\nVmPeak:\t 99 kB\nVmHWM:\t 12 kB\nVmRSS:\t 5 kB\n")
    assert hardware.peak_memory() == 12 * 1024
