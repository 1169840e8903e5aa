"""Augmentation that can be cached: few views a photo, each decided by its content and number alone."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from captioner.config import ModelConfig
from captioner.models.caption_model import CaptionModel
from captioner.models.encoder import Encoder
from captioner.text.words import SPECIAL
from captioner.training.batches import Batches, View
from captioner.training.features import Features
from captioner.training.views import is_mirrored, may_be_mirrored, show

RAMP = Image.fromarray(np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3))
CONTENT = "0123456789abcdef" * 4


def _features(value: float, photos: int) -> Features:
    return Features(np.arange(photos), np.full((photos, 1, 1), value, np.float16), ())


def test_the_first_view_is_the_photo_and_the_second_its_mirror_image() -> None:
    assert np.array_equal(show(RAMP, 0, CONTENT), RAMP)
    assert np.array_equal(show(RAMP, 1, CONTENT), np.asarray(RAMP)[:, ::-1])


def test_further_views_are_crops_that_keep_most_of_the_photo() -> None:
    for view in range(2, 12):
        width, height = show(RAMP, view, CONTENT).size
        assert 0.55 < width * height / (80 * 60) <= 1
        assert width <= 80
        assert height <= 60


def test_a_view_depends_on_content_and_number_alone() -> None:
    again = show(RAMP, 3, CONTENT)
    assert np.array_equal(show(RAMP, 3, CONTENT), again)
    others = [show(RAMP, 5, CONTENT), show(RAMP, 3, CONTENT[::-1])]
    assert all(other.size != again.size or not np.array_equal(other, again) for other in others)


def test_a_photo_of_one_pixel_has_views() -> None:
    assert show(Image.new("RGB", (1, 1)), 4, CONTENT).size == (1, 1)


def test_captions_that_name_a_side_forbid_the_mirror() -> None:
    assert may_be_mirrored(["A dog runs .", "A leftover meal ."], ["left", "right"])
    assert not may_be_mirrored(["A dog runs .", "A man on the Left, waving ."], ["left", "right"])


def test_training_draws_views_and_only_those_allowed() -> None:
    photos = 40
    allowed = np.arange(photos) % 2 == 0
    captions = [[[1, 4 + photo, 2]] for photo in range(photos)]
    batches = Batches(_features(0, photos), captions, 8, 0, [View(_features(1, photos), allowed)])
    drawn: dict[int, set[float]] = {}
    for epoch in range(20):
        for batch in batches.shuffled(0, epoch):
            for features, tokens in zip(batch.features, batch.tokens, strict=True):
                drawn.setdefault(int(tokens[0, 1]) - 4, set()).add(float(features[0, 0]))
    assert all(drawn[photo] == ({0.0, 1.0} if allowed[photo] else {0.0}) for photo in range(photos))


def test_the_same_seed_and_epoch_draw_the_same_views() -> None:
    captions = [[[1, 4, 2]] for _ in range(30)]
    batches = Batches(_features(0, 30), captions, 8, 0, [View(_features(1, 30), np.ones(30, bool))])
    once, again, other = (torch.cat([b.features for b in batches.shuffled(0, epoch)]) for epoch in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_validation_sees_the_photos_themselves() -> None:
    batches = Batches(_features(0, 10), [[[1, 4, 2]]] * 10, 4, 0, [View(_features(1, 10), np.ones(10, bool))])
    assert all(not batch.features.any() for batch in batches.in_order())


def test_mirrored_views_are_the_odd_ones() -> None:
    assert [is_mirrored(view) for view in range(5)] == [False, True, False, True, False]


def test_hidden_words_are_still_to_be_said() -> None:
    torch.manual_seed(0)
    encoder = Encoder("tiny", torch.nn.Conv2d(3, 4, 8, 8), (16, 16), (0.5,) * 3, (0.5,) * 3)
    config = ModelConfig(projection=4, embedding=4, units=4, attention=4, dropout=0.0, word_dropout=1.0)
    model = CaptionModel(encoder, config, 10, SPECIAL)
    features, tokens = torch.rand(1, 4, 4), torch.tensor([[[1, 5, 6, 7, 2]]])
    hidden = torch.tensor([[[1, 3, 3, 3, 3]]])
    taught = model.train()(features, tokens)
    expected = model.decoder.teach(model.start(features), tokens, SPECIAL.pad, hidden)
    assert taught.targets.tolist() == [5, 6, 7, 2]
    assert torch.allclose(taught.logits, expected.logits)
    read = model.eval()(features, tokens)
    assert not torch.allclose(read.logits, expected.logits)
