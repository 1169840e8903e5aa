"""Language codes (BCP 47), such as `en`, `zh` and `pt-BR`."""

import re

_CODE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


def is_language_code(text: str) -> bool:
    """Returns whether a text has the form of a language code; no list of languages is consulted."""
    return _CODE.fullmatch(text) is not None
