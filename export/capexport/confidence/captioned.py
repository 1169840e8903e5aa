"""Captions of many photos, with the features that a confidence is computed from."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from capexport.confidence.outliers import draw_outliers
from caprun.arrays import Float32Array
from caprun.bundle.confidence import CAPTION_FEATURES, is_whole
from caprun.engine import Captioner
from caprun.photos.preprocessing import load
from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions
from captioner.datasets import Example

_BATCH = 16
Images = Iterable[npt.NDArray[np.uint8]]
"""Prepared photos, each uint8 (height, width, 3)."""


@dataclass(frozen=True)
class Captioned:
    """The captions of some photos by one model and search."""

    photos: Float32Array
    """(photos, features): see `caprun.bundle.confidence.Confidence.probability`."""
    hypotheses: Sequence[Hypothesis]
    texts: Sequence[str]
    examples: Sequence[Example] = ()
    """The photos' references and datasets; empty for outliers."""

    @functools.cached_property
    def features(self) -> npt.NDArray[np.float64]:
        """Features of the captions, (photos, len(CAPTION_FEATURES))."""
        rows = [[feature(one) for feature in CAPTION_FEATURES.values()] for one in self.hypotheses]
        return np.array(rows).reshape(len(rows), len(CAPTION_FEATURES))

    @functools.cached_property
    def whole(self) -> npt.NDArray[np.bool_]:
        """Marks captions that are neither empty nor cut, (photos,). The others are not fitted and have confidence 0."""
        return np.array([is_whole(one) for one in self.hypotheses], bool)

    @property
    def datasets(self) -> npt.NDArray[np.str_]:
        """Name of each photo's dataset, (photos,)."""
        return np.array([example.dataset for example in self.examples], str)

    def only(self, kept: npt.NDArray[np.bool_]) -> Captioned:
        """Returns the photos marked in `kept`, bool (photos,)."""
        chosen = np.flatnonzero(kept).tolist()
        return Captioned(
            self.photos[chosen],
            [self.hypotheses[i] for i in chosen],
            [self.texts[i] for i in chosen],
            [self.examples[i] for i in chosen],
        )


def caption_all(captioner: Captioner, images: Images, options: SearchOptions | None = None) -> Captioned:
    """Captions prepared photos in batches; `options` defaults to the model's search options."""
    photos: list[Float32Array] = []
    hypotheses: list[Hypothesis] = []
    for batch in _batches(images):
        found, steps = captioner.search(batch, options)
        assert steps is not None
        photos.append(np.array(steps.photo))
        hypotheses += found
    return Captioned(np.concatenate(photos), hypotheses, [captioner.vocabulary.text(one.ids) for one in hypotheses])


def caption_examples(
    captioner: Captioner, examples: Sequence[Example], options: SearchOptions | None = None
) -> Captioned:
    """Captions the photos of examples, which are read on demand; see `caption_all`."""
    images = (load(example.image, captioner.spec.image) for example in examples)
    return replace(caption_all(captioner, images, options), examples=examples)


def encode_all(captioner: Captioner, images: Images) -> Float32Array:
    """Returns the features of prepared photos, (photos, features), without captioning them."""
    return np.concatenate([np.array(captioner.backend.encode(batch).photo) for batch in _batches(images)])


def outliers_of(kind: str, count: int, seed: int, captioner: Captioner) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields prepared pictures of one kind of outlier; see `draw_outliers`."""
    return (load(picture, captioner.spec.image) for picture in draw_outliers(kind, count, seed))


def _batches(images: Images) -> Iterator[npt.NDArray[np.uint8]]:
    ahead = iter(images)
    while batch := list(islice(ahead, _BATCH)):
        yield np.stack(batch)
