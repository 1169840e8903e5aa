"""From a photo to a caption: `Captioner.load(bundle).caption(image)`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from caprun.bundle import Bundle, ModelSpec, read_bundle
from caprun.decoding import Floats, Hypothesis, SearchOptions, Steps, search
from caprun.errors import BundleError
from caprun.image import Photo, load
from caprun.session import Device, OnnxBackend
from caprun.vocabulary import Vocabulary


class Backend(Protocol):
    """Whatever runs the two graphs: ONNX Runtime here, PyTorch and TorchScript in training."""

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> Steps:
        """Show photos, uint8 (photos, height, width, 3), to a decoder; `alpha`: attention weights are wanted."""
        ...


@dataclass(frozen=True, eq=False)
class CaptionWord:
    """One word of a caption."""

    text: str
    log_prob: float
    """Natural logarithm of the probability the model gave to the word, the words before it given."""
    alpha: Floats | None
    """(rows, columns): where the model looked; sums to one. Only if asked for, and only of models that attend."""


@dataclass(frozen=True, eq=False)
class Caption:
    """What the model says of a photo."""

    text: str
    log_prob: float
    """Of the whole caption, its end included."""
    words: tuple[CaptionWord, ...]
    finished: bool
    """False where the caption was cut at the maximum length."""


class Captioner:
    """A model ready to caption photos.

    Args:
        spec: its image size, special ids and search defaults.
        vocabulary: its pieces.
        backend: what runs its graphs.
    """

    def __init__(self, spec: ModelSpec, vocabulary: Vocabulary, backend: Backend) -> None:
        self.spec, self.vocabulary, self.backend = spec, vocabulary, backend

    @classmethod
    def load(
        cls, bundle: str | os.PathLike[str] | None = None, *, device: Device = "auto", threads: int | None = None
    ) -> "Captioner":
        """Load a bundle: a directory, or None for the one installed with this package.

        Raises:
            BundleError: no bundle there, or not what it says it is.
            DeviceError: the device asked for is not there.
        """
        opened: Bundle = read_bundle(packaged_bundle() if bundle is None else bundle)
        return cls(opened.manifest, opened.vocabulary, OnnxBackend(opened, device, threads))

    def caption(self, photo: Photo, options: SearchOptions | None = None, *, alpha: bool = False) -> Caption:
        """Caption one photo: a path, encoded bytes, a binary file or a PIL image.

        Args:
            photo: the photo.
            options: how to search; None for the bundle's own defaults.
            alpha: also say where the model looked for each word.

        Raises:
            ImageError: the photo cannot be read.
        """
        return self.caption_arrays(load(photo, self.spec.image)[None], options, alpha=alpha)[0]

    def caption_arrays(
        self, images: npt.NDArray[np.uint8], options: SearchOptions | None = None, *, alpha: bool = False
    ) -> list[Caption]:
        """Caption prepared photos, uint8 (photos, height, width, 3), as `caprun.image.load` gives them.

        A photo's caption does not depend on the others.
        """
        return [self._caption(hypothesis) for hypothesis in self.hypotheses(images, options, alpha=alpha)]

    def hypotheses(
        self, images: npt.NDArray[np.uint8], options: SearchOptions | None = None, *, alpha: bool = False
    ) -> Sequence[Hypothesis]:
        """The same, as ids."""
        if not len(images):
            return []
        special = self.spec.special
        steps = self.backend.encode(images, alpha=alpha)
        return search(steps, len(images), special.start, special.end, options or self.spec.search)

    def _caption(self, hypothesis: Hypothesis) -> Caption:
        words = []
        for word in self.vocabulary.words(hypothesis.ids):
            at = list(word.positions)
            seen = None
            if hypothesis.alpha is not None and self.spec.attention_grid is not None:
                seen = hypothesis.alpha[at].mean(0).reshape(self.spec.attention_grid)
            words.append(CaptionWord(word.text, float(hypothesis.log_probs[at].sum()), seen))
        return Caption(self.vocabulary.text(hypothesis.ids), hypothesis.log_prob, tuple(words), hypothesis.finished)


def packaged_bundle() -> Path:
    """The bundle installed with this package.

    Raises:
        BundleError: it is not installed.
    """
    try:
        import caprun_weights
    except ImportError:
        raise BundleError("No model is installed with this package; name a bundle with --model.") from None
    return caprun_weights.default_bundle()
