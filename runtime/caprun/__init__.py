"""Caption photos with an exported model: NumPy, Pillow and ONNX Runtime, never torch.

from caprun import Captioner
print(Captioner.load().caption("photo.jpg").text)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caprun.caption import Caption, CaptionWord
    from caprun.engine import Captioner
    from caprun.errors import BundleError, CaprunError, DeviceError, ImageError, OutputError, UsageError
    from caprun.search.options import SearchOptions

__version__ = "0.2.0"

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
    "SearchOptions": "caprun.search.options",
    "Caption": "caprun.caption",
    "Captioner": "caprun.engine",
    "CaptionWord": "caprun.caption",
}


def __getattr__(name: str) -> Any:
    # `caprun --help` should not wait for NumPy, Pillow and ONNX Runtime
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "caprun.errors")), name)
