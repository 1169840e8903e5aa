"""An epoch has every photo once, in an order that depends on seed and epoch, divided among processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from captioner.models.decoder import pad_captions
from captioner.training.inputs.batches import Batches, Step
from captioner.training.inputs.features import Features
from captioner.training.inputs.sources import CachedFeatures


def features(count: int, first: float = 0) -> Features:
    """Returns one feature per photo, `first` + i for photo i; the order of the rows differs from the photos' order."""
    table = (first + np.arange(count)[::-1]).reshape(-1, 1, 1).astype(np.float16)
    return Features(np.arange(count)[::-1].copy(), table, {})


def batches(photos: int, size: int, views: tuple[Features, ...] = (), **share: int) -> Batches:
    """Returns batches in which photo i has two captions: the word 4 + i, and an empty caption."""
    captions = [[[1, 4 + i, 2], [1, 2]] for i in range(photos)]
    return Batches(CachedFeatures(features(photos), views), captions, size, 0, **share)


def photos_of(step: Step) -> list[tuple[float, int]]:
    """Returns the feature of each photo, and its number according to the first word of its first caption."""
    return [
        (float(feature), int(tokens[0, 1]) - 4)
        for batch in step.batches
        for feature, tokens in zip(batch.seen.flatten(), batch.tokens, strict=True)
    ]


def seen(of: Batches, epoch: int, seed: int = 0) -> list[tuple[float, int]]:
    return [pair for step in of.epoch(seed, epoch) for pair in photos_of(step)]


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, 3, [3, 2, 2]), (6, 3, [3, 3]), (2, 16, [2])])
def test_every_photo_is_in_an_epoch_once_with_its_own_captions(count, size, sizes):
    steps = list(batches(count, size).epoch(0, 0))
    assert [len(photos_of(step)) for step in steps] == sizes
    assert len(batches(count, size)) == len(sizes)
    assert batches(count, size).fewest == min(sizes)
    pairs = seen(batches(count, size), epoch=0)
    assert all(feature == photo for feature, photo in pairs)
    assert sorted(photo for _, photo in pairs) == list(range(count))


def test_the_order_depends_only_on_seed_and_epoch():
    one = batches(20, 4)
    assert seen(one, 3) == seen(batches(20, 4), 3)
    assert len({tuple(seen(one, epoch, seed)) for epoch in (0, 1) for seed in (0, 1)}) == 4


def test_an_epoch_continues_from_any_step():
    views = (features(20, 100),)
    whole = [photos_of(step) for step in batches(20, 3, views).epoch(5, 2)]
    for first in range(len(whole)):
        assert [photos_of(step) for step in batches(20, 3, views).epoch(5, 2, first)] == whole[first:]


@pytest.mark.parametrize(("count", "parts"), [(2, 1), (3, 1), (1, 3), (2, 2)])
def test_processes_and_parts_divide_the_same_steps(count, parts):
    whole = list(batches(20, 7).epoch(0, 1))
    shares = [list(batches(20, 7, rank=rank, count=count, parts=parts).epoch(0, 1)) for rank in range(count)]
    for number, step in enumerate(whole):
        together = [pair for share in shares for pair in photos_of(share[number])]
        assert together == photos_of(step)
        assert all(len(share[number].batches) == parts for share in shares)
        assert {share[number][1:] for share in shares} == {step[1:]}  # totals count the whole step


def test_totals_count_captions_and_words_including_end():
    (step,) = batches(3, 3).epoch(0, 0)
    assert (step.words, step.captions) == (3 * (2 + 1), 6)
    assert step.words == sum(int((batch.tokens[:, :, 1:] != 0).sum()) for batch in step.batches)
    assert batches(3, 3).captions == 6


def test_a_part_without_photos_is_left_out():
    (step,) = batches(2, 2, parts=5).epoch(0, 0)
    assert [len(batch.seen) for batch in step.batches] == [1, 1]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_validation_has_every_photo_once_for_any_number_of_processes(count):
    shares = [batches(7, 3, rank=rank, count=count) for rank in range(count)]
    looked = [
        (float(feature), int(photo))
        for share in shares
        for feature, photo in zip(
            torch.cat([torch.zeros(0), *(batch.seen.flatten() for batch in share.in_order())]),
            share.share(),
            strict=True,
        )
    ]
    assert sorted(looked) == [(photo, photo) for photo in range(7)]


def test_views_are_sampled_per_photo_and_only_where_allowed():
    allowed = np.arange(20) % 2 == 0
    some = features(20, 100)
    views = (replace(some, rows=np.where(allowed, some.rows, -1)), features(20, 200))
    drawn = [pair for epoch in range(10) for pair in seen(batches(20, 4, views), epoch)]
    assert all(feature % 100 == photo for feature, photo in drawn)
    counts = Counter((int(feature) // 100, photo % 2) for feature, photo in drawn)
    assert counts[1, 1] == 0
    assert all(counts[view, odd] > 15 for view, odd in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)))
    plain = [float(f) for batch in batches(20, 4, views).in_order() for f in batch.seen.flatten()]
    assert plain == list(range(20))


def test_the_digest_covers_every_caption():
    captions = [[[1, 4, 2]], [[1, 5, 2], [1, 2]]]
    digest = Batches(CachedFeatures(features(2)), captions, 2, 0).digest
    assert Batches(CachedFeatures(features(2)), captions, 1, 0).digest == digest
    assert Batches(CachedFeatures(features(2)), captions[::-1], 2, 0).digest != digest
    assert Batches(CachedFeatures(features(2)), [captions[0], [[1, 5, 2], [1, 4, 2]]], 2, 0).digest != digest


def test_captions_are_padded_and_longest_first():
    captions = [[[1, 2], [1, 4, 5, 2]], [[1, 4, 2]]]
    (batch,) = Batches(CachedFeatures(features(2)), captions, 2, 9).in_order()
    assert batch.tokens.tolist() == [[[1, 4, 5, 2], [1, 2, 9, 9]], [[1, 4, 2, 9], [9, 9, 9, 9]]]
    assert pad_captions([[[1, 2]]], 0).tolist() == [[[1, 2]]]


# --- Weights of photos and captions


def shown(weights: list[float], epoch: int, first: int = 0) -> list[tuple[float, int]]:
    captions = [[[1, 4 + i, 2], [1, 2]] for i in range(len(weights))]
    views = [features(len(weights), 100 * view) for view in (1, 2)]
    of = Batches(CachedFeatures(features(len(weights)), views), captions, 4, 0, shown=weights)
    assert of.showings == sum(len(photos_of(step)) for step in of.epoch(0, epoch))
    return [pair for step in of.epoch(0, epoch, first) for pair in photos_of(step)]


def test_at_least_one_photo_of_any_weight_is_shown():
    assert len(shown([0.05] * 6, 0)) == 1
    assert {photo >= 6 for _, photo in shown([1.0] * 6 + [0.01] * 6, 0)} == {True, False}


def test_a_weight_determines_how_often_a_photo_is_shown():
    weights = [2.5] * 4 + [0.25] * 8
    counts = [Counter(photo for _, photo in shown(weights, epoch)) for epoch in range(40)]
    assert all(count[photo] in (2, 3) for count in counts for photo in range(4))
    assert all(sum(count[photo] for photo in range(4)) == 10 for count in counts)  # the same in every epoch
    assert all(sum(count[photo] for photo in range(4, 12)) == 2 for count in counts)
    assert all(sum(count[photo] for count in counts) > 0 for photo in range(4, 12))


def test_each_showing_of_a_photo_samples_its_own_view():
    pairs = [pair for epoch in range(20) for pair in shown([2.0] * 6, epoch)]
    assert all(feature % 100 == photo for feature, photo in pairs)
    views = Counter(int(feature) // 100 for feature, _ in pairs)
    assert set(views) == {0, 1, 2}
    twice = [
        Counter(int(feature) // 100 for feature, photo in shown([2.0] * 6, epoch) if photo == 0) for epoch in range(20)
    ]
    assert any(len(views) == 2 for views in twice)


def test_an_epoch_with_weights_continues_from_a_step():
    weights = [1.5] * 4 + [0.5] * 4
    whole = shown(weights, 3)
    assert shown(weights, 3, first=1) == whole[len(whole) - len(shown(weights, 3, first=1)) :]


@pytest.mark.parametrize(("balance", "weights"), [(0, [1, 1]), (1, [1, 4]), (0.5, [1, 2])])
def test_balance_gives_photos_with_few_captions_more_weight(balance, weights):
    captions = [[[1, 4, 2]] * 4, [[1, 5, 2]]]
    (step,) = Batches(CachedFeatures(features(2)), captions, 2, 0, balance=balance).epoch(0, 0)
    (batch,) = step.batches
    assert dict(zip(batch.photos.tolist(), batch.weights.tolist(), strict=True)) == dict(enumerate(weights))
    assert step.weighted_captions == 4 * weights[0] + weights[1]
    assert step.weighted_words == 2 * step.weighted_captions
    assert (step.words, step.captions) == (10, 5)
