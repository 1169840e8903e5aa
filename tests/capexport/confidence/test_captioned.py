"""Photos captioned in batches get the same captions as in the runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from capexport.confidence.captioned import caption_all, encode_all
from captioner.backends.loading import load_captioner
from tests.capexport.confidence.synthetic import examples
from tests.capexport.conftest import draw_photos


def test_batches_of_photos_get_the_captions_of_the_captioner(checkpoint_file: Path) -> None:
    model, photos = load_captioner(checkpoint_file, "cpu"), draw_photos(20, seed=5)
    captioned = caption_all(model, iter(photos))
    assert captioned.texts == [caption.text for caption in model.caption_arrays(photos)]
    assert captioned.photos.shape == (20, 64)
    assert captioned.features.shape == (20, 6)
    np.testing.assert_array_equal(encode_all(model, iter(photos)), captioned.photos)


def test_a_selection_of_captioned_photos_keeps_its_order(checkpoint_file: Path) -> None:
    captioned = caption_all(load_captioner(checkpoint_file, "cpu"), iter(draw_photos(6, seed=5)))
    captioned = replace(captioned, examples=examples([[text] for text in captioned.texts], list("aabbcc")))
    kept = captioned.only(np.array([True, False, False, True, True, False]))
    assert kept.texts == [captioned.texts[i] for i in (0, 3, 4)]
    assert kept.hypotheses == [captioned.hypotheses[i] for i in (0, 3, 4)]
    assert [one.references for one in kept.examples] == [(captioned.texts[i],) for i in (0, 3, 4)]
    assert kept.datasets.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(kept.photos, captioned.photos[[0, 3, 4]])
