"""Equal numbers give equal curves, and matplotlib's state does not change."""

import io
import math
import subprocess
import sys

import numpy as np
from PIL import Image

from captioner.reports.curves import curves_png

STEPS = [(step / 100, 5 * math.exp(-step / 80), 0.4) for step in range(1, 301)]
EPOCHS = [
    {"Epoch": float(epoch), "Loss": 4.0 / epoch, "Accuracy": 0.4, "BLEU-1": 0.5, "METEOR": None, "CIDEr": 0.1 * epoch}
    for epoch in (1, 2, 3)
]


def colours(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_curves_are_a_wide_picture():
    picture = colours(curves_png(STEPS, EPOCHS))
    assert picture.shape[1] > 2 * picture.shape[0] > 400
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_there_are_no_curves_before_the_first_complete_epoch():
    assert curves_png(STEPS, []) is None


def test_equal_numbers_give_identical_files():
    assert curves_png(STEPS, EPOCHS) == curves_png(STEPS, EPOCHS)


def test_the_training_loss_is_drawn_too():
    assert (colours(curves_png(STEPS, EPOCHS)) != colours(curves_png([], EPOCHS))).any()


def test_an_epoch_without_scores_is_drawn():
    assert colours(curves_png([], [{"Epoch": 1.0, "Loss": 3.0}])).size


def test_curves_are_drawn_if_a_loss_is_nan_or_infinite():
    assert colours(curves_png([(0.5, math.nan, 0.1)], [{"Epoch": 1.0, "Loss": math.inf}])).size


def test_pyplot_is_not_imported():
    code = (
        "import sys; from captioner.reports.curves import curves_png; "
        "curves_png([], [{'Epoch': 1.0, 'Loss': 3.0}]); print('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
