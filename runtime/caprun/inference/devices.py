"""ONNX Runtime as it is installed, and the device to run on."""

import contextlib
import os
from typing import Any, Literal

from caprun.errors import DeviceError

Device = Literal["auto", "cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def onnxruntime() -> Any:
    """Import ONNX Runtime, or say in one sentence what to install."""
    # from 1.29 on it tells its makers what it loads and runs, unless this was said before it is first imported
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"ONNX Runtime is not installed or does not load ({error}): "
            'pip install onnxruntime, or "onnxruntime-gpu[cuda,cudnn]" for CUDA.'
        ) from error
    # Two packages unpack into the same folder; a half-removed one leaves a module with nothing in it.
    if not hasattr(onnxruntime, "InferenceSession"):
        raise DeviceError(f"ONNX Runtime is installed badly. {_REINSTALL}")
    return onnxruntime


_REINSTALL = (
    "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of them: onnxruntime, or onnxruntime-gpu "
    "for CUDA."
)


def installed_packages() -> dict[str, str]:
    """The ONNX Runtime packages installed, with their versions; two at once overwrite each other's files."""
    import importlib.metadata

    versions = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def choose_device(device: Device) -> Literal["cpu", "cuda"]:
    """`auto` is CUDA where ONNX Runtime was built with it.

    Raises:
        DeviceError: CUDA is asked for and this ONNX Runtime has none.
    """
    has_cuda = PROVIDERS["cuda"] in onnxruntime().get_available_providers()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device == "cuda" and not has_cuda:
        if len(installed_packages()) > 1:
            raise DeviceError(
                f"onnxruntime and onnxruntime-gpu are both installed and one hides the other: {_REINSTALL}"
            )
        raise DeviceError(
            "CUDA was asked for and the ONNX Runtime installed here runs on the CPU alone: "
            'pip uninstall -y onnxruntime, then pip install "onnxruntime-gpu[cuda,cudnn]", or use --device cpu.'
        )
    return device
