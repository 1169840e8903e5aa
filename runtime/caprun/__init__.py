"""Caption photos with an exported model: NumPy, Pillow and ONNX Runtime, never torch.

from caprun import Captioner
print(Captioner.load().caption("photo.jpg").text)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caprun.decoding import SearchOptions
    from caprun.engine import Caption, Captioner, CaptionWord
    from caprun.errors import BundleError, CaprunError, DeviceError, ImageError, OutputError, UsageError

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "CaprunError",
    "Caption",
    "CaptionWord",
    "Captioner",
    "DeviceError",
    "ImageError",
    "OutputError",
    "SearchOptions",
    "UsageError",
]

_MODULES = {
    "SearchOptions": "caprun.decoding",
    "Caption": "caprun.engine",
    "Captioner": "caprun.engine",
    "CaptionWord": "caprun.engine",
}


def __getattr__(name: str) -> Any:
    # `caprun --help` should not wait for NumPy, Pillow and ONNX Runtime
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "caprun.errors")), name)
