"""The errors callers may want to catch.

    CaprunError
    ├── BundleError    a bundle is missing, altered or of an unknown kind
    ├── ImageError     a photo is missing, broken, too large or of a format that is not taken
    │   ├── FormatError         it is no image of a format that is taken
    │   └── TooLargeError       it has more pixels or bytes than are taken
    ├── DeviceError    the device asked for, or ONNX Runtime itself, is not there
    ├── OutputError    a file of results cannot be written, or is being written by somebody else
    └── UsageError     an option has a value it cannot have

Every message is one sentence that says what was wrong, with which file, and what to do.
"""


class CaprunError(Exception):
    """Whatever caprun refuses to do; `str(error)` is the sentence to show to a person."""


class BundleError(CaprunError):
    """A bundle is missing, incomplete, altered, or written by a newer version."""


class ImageError(CaprunError, ValueError):
    """A photo cannot be read."""


class FormatError(ImageError):
    """A photo is of a format that is not taken, or no image."""


class TooLargeError(ImageError):
    """A photo has more pixels or bytes than are taken."""


class DeviceError(CaprunError, RuntimeError):
    """The device asked for, or ONNX Runtime itself, is not available."""


class OutputError(CaprunError, OSError):
    """A file of results cannot be written."""


class UsageError(CaprunError, ValueError):
    """An option has a value that it cannot have."""
