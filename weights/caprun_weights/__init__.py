"""The bundles that are installed with caprun."""

from importlib.resources import files
from pathlib import Path

DEFAULT = "everyday_lite2"


def default_bundle() -> Path:
    """The directory of the bundle that `caprun` uses unless another is named."""
    return Path(str(files(__name__) / DEFAULT))
