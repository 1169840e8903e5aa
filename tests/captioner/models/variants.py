"""Settings of every decoder variant, and captions to train on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Teacher, pad_captions
from captioner.text.tokenizer import SPECIAL

WORDS = 12
MakeModel = Callable[..., CaptionModel]

_LINEAR: dict[str, object] = {"output": "linear", "initial_tanh": False, "tie_words": False}
VARIANTS: dict[str, dict[str, object]] = {
    "soft-attention": {},
    "soft-attention, no gate": {"gate": False, "tie_words": False},
    "soft-attention, projection": {"initial_state": "projection", "projection": 8},
    "hard-attention": {"decoder": "hard-attention"},
    "hard-attention, no gate": {"decoder": "hard-attention", "gate": False, "tie_words": False},
    "rnetvi": {"decoder": "rnetvi", "projection": 6},
    "rnetvi, untied": {"decoder": "rnetvi", "projection": 6, "tie_words": False},
    "rnetvh": {"decoder": "rnetvh"},
    "rnetvh, projection": {"decoder": "rnetvh", "initial_state": "projection", "projection": 8},
    "rnetvhc": {"decoder": "rnetvhc", "tie_words": False},
    "rnetvhc, projection": {"decoder": "rnetvhc", "initial_state": "projection", "projection": 8},
    "as sgrvinod": {**_LINEAR, "project": "none", "attention_activation": "relu"},
    "as vvduc": {**_LINEAR, "decoder": "rnetvi", "embedding": 12, "projection": 12, "project": "relu"},
    "as ljm565": {**_LINEAR, "project": "none", "attention_layers": 2, "initial_state": "weighted", "output": "relu"},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


def caption(*words: int) -> list[int]:
    return [SPECIAL.start, *words, SPECIAL.end]


CAPTIONS = [
    [caption(4, 5, 6, 7, 8), caption(9, 4, 5), caption(10)],
    [caption(11, 10, 9, 8), caption(7, 6, 5, 4), caption()],
    [caption(4, SPECIAL.unk, 4), caption(5)],
]
TOKENS = pad_captions(CAPTIONS, SPECIAL.pad)


def logits_by_word(teacher: Teacher, tokens: Tensor) -> Tensor:
    """Returns logits, (photos, captions, length, vocabulary), with NaN at padding."""
    said = tokens[:, :, 1:] != SPECIAL.pad
    logits = torch.full((*said.shape, WORDS), torch.nan)
    logits[said] = teacher.logits[teacher.caption.argsort(stable=True)]
    return logits


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5, equal_nan=True)
