"""Chooses the precision of a bundle that is fastest on this hardware."""

import os
from typing import Literal

from caprun.bundle.manifest import FULL_PRECISION, Manifest


def measured_on(device: Literal["cpu", "cuda"]) -> str:
    """Names this hardware as a manifest does: `cuda`, or `cpu/x86_64`."""
    if device == "cuda":
        return device
    machine = os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "")
    names = {"amd64": "x86_64", "arm64": "aarch64"}
    return f"cpu/{names.get(machine.lower(), machine.lower())}"


def choose_precision(manifest: Manifest, device: Literal["cpu", "cuda"]) -> str:
    """Chooses the fastest precision measured on this hardware; fp32 without a measurement.

    Only speed matters, since an export keeps no precision that captions worse than fp32.
    """
    hardware = measured_on(device)
    speeds = {
        name: found.photos_per_second
        for name, precision in manifest.precisions.items()
        if precision.measured != "unmeasured"
        for found in precision.measured
        if found.device == hardware
    }
    return max(speeds, key=lambda name: speeds[name]) if FULL_PRECISION in speeds else FULL_PRECISION
