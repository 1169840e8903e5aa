"""Errors explain why CUDA is unavailable, and a failed start prints nothing else."""

import ctypes
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnxruntime.capi import build_and_package_info

from caprun import Captioner, DeviceError
from caprun.inference import cuda
from caprun.inference.devices import choose_device
from caprun.inference.session import OnnxBackend

Images = npt.NDArray[np.uint8]
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]
NEEDS = "onnxruntime-gpu 1.31.1 needs CUDA 13 and cuDNN 9"
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


class Driver:
    """A fake of the NVIDIA driver's library, with the one function that caprun calls."""

    def __init__(self, version: int, status: int = 0) -> None:
        self._version, self._status = version, status

    def cuDriverGetVersion(self, place: Any) -> int:  # noqa: N802 - named as in the library
        place._obj.value = self._version
        return self._status


def install_driver(monkeypatch: pytest.MonkeyPatch, library: object) -> None:
    def load(name: str | None) -> object:
        if name not in ("libcuda.so.1", "nvcuda.dll"):
            return SimpleNamespace()
        if library is None:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)


@pytest.fixture
def gpu_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the installed ONNX Runtime look like onnxruntime-gpu 1.31.1."""
    monkeypatch.setattr(build_and_package_info, "package_name", "onnxruntime-gpu")
    monkeypatch.setattr(build_and_package_info, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "1.31.1")
    requires = ["numpy>=1.21.6", 'nvidia-cufft~=12.0; extra == "cuda"', 'nvidia-cudnn-cu13~=9.0; extra == "cudnn"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: requires)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)


@pytest.mark.parametrize(
    ("library", "version"),
    [
        (Driver(13010), (13, 1)),
        (Driver(12080), (12, 8)),
        (Driver(0), None),
        (Driver(13000, status=34), None),  # the stub of the CUDA toolkit, meant for linking
        (SimpleNamespace(), None),
        (None, None),
    ],
)
def test_the_driver_reports_the_cuda_version_that_it_supports(
    monkeypatch: pytest.MonkeyPatch, library: object, version: tuple[int, int] | None
) -> None:
    install_driver(monkeypatch, library)
    assert cuda.driver() == version


def test_the_driver_is_loaded_as_nvcuda_dll_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or Driver(13000))
    assert cuda.driver() == (13, 0)
    assert asked == ["nvcuda.dll"]


@pytest.mark.usefixtures("gpu_package")
def test_the_package_states_the_cuda_and_cudnn_versions_that_it_needs() -> None:
    assert cuda.requirements() == ("onnxruntime-gpu 1.31.1", 13, 9)
    assert str(cuda.requirements()) == NEEDS


@pytest.mark.usefixtures("gpu_package")
def test_a_package_that_states_no_version_accepts_any_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(build_and_package_info, "cuda_version")
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: None)
    assert str(cuda.requirements()) == "onnxruntime-gpu 1.31.1 needs CUDA"
    install_driver(monkeypatch, Driver(11040))
    assert choose_device("cuda") == "cuda"


@pytest.mark.usefixtures("gpu_package")
@pytest.mark.parametrize(
    ("library", "sentence"),
    [
        (
            None,
            f"This host has no NVIDIA driver, and {NEEDS}; install a driver, or use --device cpu.",
        ),
        (
            Driver(12080),
            (
                f"The NVIDIA driver here supports CUDA 12.8 at most, but {NEEDS}; update the driver, install an "
                "onnxruntime-gpu for CUDA 12, or use --device cpu."
            ),
        ),
    ],
)
def test_a_missing_or_old_driver_is_an_error_with_cuda_and_the_cpu_with_auto(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, capfd: pytest.CaptureFixture[str], library: object, sentence: str
) -> None:
    install_driver(monkeypatch, library)
    assert choose_device("auto") == "cpu"
    with pytest.raises(DeviceError) as caught:
        Captioner.load(tiny, device="cuda")
    assert str(caught.value) == sentence
    backend = Captioner.load(tiny, device="auto").backend
    assert isinstance(backend, OnnxBackend)
    assert backend.device == "cpu"
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("gpu_package")
@pytest.mark.parametrize("version", [13000, 13020, 14000])
def test_cuda_is_chosen_if_the_driver_is_new_enough(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    install_driver(monkeypatch, Driver(version))
    assert choose_device("auto") == choose_device("cuda") == "cuda"


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.usefixtures("gpu_package")
def test_cuda_that_does_not_start_is_an_error_with_the_needed_versions(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, photo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    install_driver(monkeypatch, Driver(13010))
    missing = "Failed to load libcublasLt.so.13: cannot open shared object file"
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(missing), raising=False)
    with pytest.raises(DeviceError) as caught:
        Captioner.load(tiny, device="cuda")
    assert str(caught.value) == (
        "CUDA does not start: onnxruntime-gpu 1.31.1 needs CUDA 13 and cuDNN 9, and the NVIDIA driver here supports "
        'CUDA 13.1; install the libraries with pip install "onnxruntime-gpu[cuda,cudnn]", or use --device cpu.'
    )
    fallen = Captioner.load(tiny, device="auto")
    assert isinstance(fallen.backend, OnnxBackend)
    assert (fallen.backend.device, fallen.backend.problem) == ("cpu", str(caught.value))
    assert fallen.caption(photo).text
    assert capfd.readouterr().out == "", "stdout is for captions"


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
@pytest.mark.usefixtures("gpu_package")
def test_the_error_includes_onnx_runtimes_reason(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    install_driver(monkeypatch, Driver(13010))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(
        DeviceError, match=r"^CUDA does not start \(CUDA failure 100: .*\): onnxruntime-gpu 1\.31\.1 needs"
    ):
        Captioner.load(tiny, device="cuda")


def test_the_logger_of_onnx_runtime_is_quiet_only_while_a_session_starts() -> None:
    levels: list[int] = []
    runtime = SimpleNamespace(set_default_logger_severity=levels.append)
    with cuda.started_quietly(runtime):
        assert levels == [4]
    assert levels == [4, 2]


@pytest.mark.skipif(not HAS_CUDA or cuda.driver() is not None, reason="needs onnxruntime-gpu and no driver")
def test_the_real_package_prints_nothing_without_a_driver(tiny: Path, photo: Path) -> None:
    command = [sys.executable, "-m", "caprun", "--model", str(tiny), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
