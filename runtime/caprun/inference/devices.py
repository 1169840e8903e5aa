"""The installed ONNX Runtime, and the device to run on."""

import contextlib
import os
from typing import Any, Literal

from caprun.errors import DeviceError
from caprun.inference import cuda

Device = Literal["auto", "cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_REINSTALL = (
    "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of them: onnxruntime, or onnxruntime-gpu "
    "for CUDA."
)


def onnxruntime() -> Any:
    """Imports ONNX Runtime.

    Raises:
        DeviceError: It is not installed, or its installation is broken; the message states what to install.
    """
    # ONNX Runtime 1.29 and newer send telemetry, unless this is set before the first import
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"ONNX Runtime is not installed or does not load ({error}): "
            'pip install onnxruntime, or "onnxruntime-gpu[cuda,cudnn]" for CUDA.'
        ) from error
    # Two packages share one folder; uninstalling one leaves an empty module
    if not hasattr(onnxruntime, "InferenceSession"):
        raise DeviceError(f"The installation of ONNX Runtime is broken. {_REINSTALL}")
    return onnxruntime


def installed_packages() -> dict[str, str]:
    """Finds the installed ONNX Runtime packages and their versions; two packages overwrite each other's files."""
    import importlib.metadata  # slow to import, and needed only for a message

    versions = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def choose_device(device: Device) -> Literal["cpu", "cuda"]:
    """Chooses the device: `auto` is CUDA where ONNX Runtime was built with it and the driver supports it.

    Raises:
        DeviceError: `cuda` is requested, but ONNX Runtime was built without it or the driver is missing or too old.
    """
    if device == "cpu":
        return "cpu"
    has_cuda = PROVIDERS["cuda"] in onnxruntime().get_available_providers()
    problem = cuda.problem() if has_cuda else _without_cuda()
    if problem is None:
        return "cuda"
    if device == "auto":
        return "cpu"
    raise DeviceError(problem)


def _without_cuda() -> str:
    if len(installed_packages()) > 1:
        return f"onnxruntime and onnxruntime-gpu are both installed and one hides the other: {_REINSTALL}"
    return (
        "The ONNX Runtime installed here runs only on the CPU: pip uninstall -y onnxruntime, then pip install "
        '"onnxruntime-gpu[cuda,cudnn]", or use --device cpu.'
    )
