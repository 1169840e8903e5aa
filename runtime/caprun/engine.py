"""Captions photos with a bundle: `Captioner.load(bundle).caption(photo)`."""

import functools
import hashlib
import os
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float32Array
from caprun.bundle.manifest import ModelSpec
from caprun.bundle.manifest_check import is_plain_name
from caprun.bundle.reading import Bundle, read_bundle
from caprun.bundle.vocabulary import Vocabulary
from caprun.caption import Caption, CaptionWord
from caprun.errors import BundleError, ImageError
from caprun.inference.devices import Device
from caprun.inference.session import OnnxBackend
from caprun.photos.file import Photo
from caprun.photos.preprocessing import load
from caprun.search.decoding import search
from caprun.search.hypothesis import Hypothesis
from caprun.search.neutral import Neutralizer
from caprun.search.options import SearchOptions
from caprun.search.steps import Steps


class Backend(Protocol):
    """Runs the two graphs of a model: ONNX Runtime here, PyTorch and TorchScript in training."""

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> Steps:
        """Encodes photos, uint8 (photos, height, width, 3); with `alpha`, steps return attention weights."""
        ...


class Captioner:
    """A model ready to caption photos.

    Args:
        spec: Image size, special ids and search defaults of the model.
        vocabulary: Pieces of the model.
        backend: Runs the graphs of the model.
        digest: Digest of the weights; empty for a bundle, whose manifest has checksums.
        workers: Number of threads that may caption at once.
    """

    def __init__(
        self,
        spec: ModelSpec,
        vocabulary: Vocabulary,
        backend: Backend,
        *,
        digest: str = "",
        workers: int = 1,
    ) -> None:
        self.spec, self.vocabulary, self.backend, self.digest = spec, vocabulary, backend, digest
        self.workers = workers

    @functools.cached_property
    def neutral(self) -> Neutralizer | None:
        """The neutral words for `SearchOptions.neutral`; None for a model without them."""
        return None if self.spec.neutral is None else self.spec.neutral.neutralizer(self.vocabulary)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        device: Device = "auto",
        threads: int | None = None,
        precision: str | None = None,
        many: bool = False,
    ) -> "Captioner":
        """Loads a bundle.

        Args:
            bundle: A directory, the name of an installed bundle, or a bundle from `read_bundle`; None for the packaged
                bundle.
            device: `auto` uses CUDA where it starts, else the CPU; `cuda` uses CUDA or fails.
            threads: CPU threads; None for all cores.
            precision: A precision of the bundle; None for the fastest one measured on this type of hardware.
            many: Whether to caption several batches at the same time, each on one thread, which is faster for many
                photos; otherwise a photo or a batch is captioned on all threads.

        Raises:
            BundleError: The bundle does not exist, differs from its manifest, or has no such precision.
            DeviceError: The device is not available.
        """
        from caprun.inference.hardware import threads_for_all_cores

        opened = bundle if isinstance(bundle, Bundle) else read_bundle(find_bundle(bundle))
        backend = OnnxBackend(opened, device, 1 if many else threads, precision)
        at_once = many and backend.device == "cpu"  # one thread keeps a GPU busy
        workers = (threads or threads_for_all_cores()) if at_once else 1
        return cls(opened.manifest, opened.vocabulary, backend, workers=workers)

    def caption(self, photo: Photo, options: SearchOptions | None = None, *, alpha: bool = False) -> Caption:
        """Captions one photo.

        Args:
            photo: A path, encoded bytes, a binary file or a PIL image.
            options: Search options; None for the bundle's.
            alpha: Whether words have attention weights.

        Raises:
            ImageError: The photo cannot be read.
        """
        return self.caption_arrays(load(photo, self.spec.image)[None], options, alpha=alpha)[0]

    def caption_many(
        self,
        photos: Iterable[Photo],
        options: SearchOptions | None = None,
        *,
        batch_size: int | None = None,
        decoders: int | None = None,
    ) -> Generator[Caption | ImageError, None, None]:
        """Captions many photos and yields a caption or an error for each, in order.

            captioner = Captioner.load(many=True)
            for photo, result in zip(photos, captioner.caption_many(photos)):
                print(photo, result if isinstance(result, ImageError) else result.text)

        `photos` is read on demand, so memory does not depend on the number of photos.

        Args:
            photos: Paths, encoded bytes, binary files or PIL images.
            options: Search options; None for the bundle's.
            batch_size: Photos per batch; None for the device's default.
            decoders: Threads that read photos; None for one per core.

        Raises:
            UsageError: A number is out of range.
        """
        from caprun.batch.pipeline import caption_many

        return caption_many(
            photos,
            lambda photo: load(photo, self.spec.image),
            lambda images: self.caption_arrays(images, options),
            batch_size=default_batch_size(self) if batch_size is None else batch_size,
            decoders=decoders,
            workers=self.workers,
        )

    def caption_arrays(
        self, images: npt.NDArray[np.uint8], options: SearchOptions | None = None, *, alpha: bool = False
    ) -> list[Caption]:
        """Captions prepared photos; a caption does not depend on the other photos.

        Args:
            images: uint8 (photos, height, width, 3), as `caprun.photos.preprocessing.load` returns them.
            options: Search options; None for the bundle's.
            alpha: Whether words have attention weights.
        """
        hypotheses, steps = self.search(images, options, alpha=alpha)
        seen = [None] * len(hypotheses) if steps is None or self.spec.confidence is None else steps.photo
        return [self._caption(hypothesis, photo) for hypothesis, photo in zip(hypotheses, seen, strict=True)]

    def hypotheses(self, images: npt.NDArray[np.uint8], options: SearchOptions | None = None) -> Sequence[Hypothesis]:
        """Captions prepared photos as `caption_arrays` does, and returns ids."""
        return self.search(images, options)[0]

    def search(
        self, images: npt.NDArray[np.uint8], options: SearchOptions | None = None, *, alpha: bool = False
    ) -> tuple[Sequence[Hypothesis], Steps | None]:
        """Searches as `hypotheses` does, and returns the decoder too; None without photos."""
        if not len(images):
            return [], None
        special = self.spec.special
        steps = self.backend.encode(images, alpha=alpha)
        options = options or self.spec.search
        # a sample depends on the seed and on the photo's pixels, and on nothing else
        identities = [_identity(image) for image in images] if options.temperature > 0 else None
        hypotheses = search(
            steps,
            len(images),
            special.start,
            special.end,
            options,
            vocabulary=self.vocabulary,
            identities=identities,
            neutral=self.neutral if options.neutral else None,
        )
        return hypotheses, steps

    def _caption(self, hypothesis: Hypothesis, photo: Float32Array | None) -> Caption:
        words = []
        for word in self.vocabulary.words(hypothesis.ids):
            at = hypothesis.positions(word.positions)
            seen = None
            if hypothesis.alpha is not None and self.spec.attention_grid is not None:
                seen = hypothesis.alpha[at].mean(0).reshape(self.spec.attention_grid)
            words.append(CaptionWord(word.text, float(hypothesis.log_probs[at].sum()), seen))
        confidence = self.spec.confidence
        return Caption(
            self.vocabulary.text(hypothesis.ids),
            hypothesis.log_prob,
            tuple(words),
            hypothesis.finished,
            tuple(self._caption(other, photo) for other in hypothesis.alternatives),
            None if confidence is None or photo is None else confidence.probability(photo, hypothesis),
        )


def _identity(image: npt.NDArray[np.uint8]) -> int:
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest(), "little")


def default_batch_size(captioner: Captioner) -> int:
    """Returns the default number of photos that a captioner computes together on its device."""
    from caprun.batch.pipeline import BATCH_SIZE

    return BATCH_SIZE[getattr(captioner.backend, "device", "cpu")]


def find_bundle(model: str | os.PathLike[str] | None) -> Path:
    """Finds a bundle's directory: a path, or the name of an installed bundle unless a directory has that name.

    None means the packaged bundle. If there is neither, the path is returned as it was given.

    Raises:
        BundleError: No bundle is packaged, or the package of an installed one is broken.
    """
    if model is None:
        return packaged_bundle()
    name = os.fsdecode(model)
    if is_plain_name(name) and not os.path.lexists(name):
        from caprun.bundle.installed import installed_bundle  # reads the metadata of all installed packages

        if installed := installed_bundle(name):
            return installed.path()
    return Path(name)


def packaged_bundle() -> Path:
    """Returns the bundle installed with this package.

    Raises:
        BundleError: No bundle is installed.
    """
    try:
        import caprun_weights
    except ImportError:
        raise BundleError("No model is installed with this package; name a bundle with --model.") from None
    return caprun_weights.default_bundle()
