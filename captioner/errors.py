"""The error of the training package."""

from caprun.errors import CaprunError


class CaptionerError(CaprunError):
    """An error with a message for the user: what is wrong, with which file, and what to do."""
