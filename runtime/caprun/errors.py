"""The errors that callers may want to catch.

    CaprunError
    ├── BundleError    a bundle is missing, incomplete, altered, or written by a newer version
    ├── ImageError     a photo cannot be read
    │   ├── FormatError         the format is not supported, or the file is not an image
    │   └── TooLargeError       the photo has too many pixels or bytes
    ├── DeviceError    the device, or ONNX Runtime itself, is not available
    ├── OutputError    a results file cannot be written, or another run is writing it
    └── UsageError     an option has a wrong value

Every message states in one or two sentences what was wrong, with which file, and what to do.
"""


class CaprunError(Exception):
    """The base of all errors; `str(error)` is the message to show to the user."""


class BundleError(CaprunError):
    """A bundle is missing, incomplete, altered, or written by a newer version."""


class ImageError(CaprunError, ValueError):
    """A photo cannot be read."""


class FormatError(ImageError):
    """A file has an unsupported format, or is not an image."""


class TooLargeError(ImageError):
    """A photo has too many pixels or bytes."""


class DeviceError(CaprunError, RuntimeError):
    """The device, or ONNX Runtime itself, is not available."""


class OutputError(CaprunError, OSError):
    """A results file cannot be written."""


class UsageError(CaprunError, ValueError):
    """An option has a wrong value, or two options exclude each other."""
