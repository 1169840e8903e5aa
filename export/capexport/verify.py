"""Verifies that the written graphs compute what PyTorch computes, from encoder outputs to captions.

The graphs run from the files of the bundle, with the runtime's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from capexport.near_ties import TOLERANCE, is_near_tie, log_probs_in, pieces_of, replay
from caprun.arrays import Ids
from caprun.bundle.manifest import ModelSpec
from caprun.bundle.vocabulary import Vocabulary
from caprun.engine import Captioner
from caprun.errors import CaprunError
from caprun.inference.session import OnnxBackend
from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions
from caprun.search.steps import StepOutput
from captioner.backends.pytorch import ModelBackend
from captioner.backends.torchscript import ScriptBackend

BATCH_SIZES = (1, 2, 5, 16)
BEAM_SIZES = (1, 3, 5)
STATE_TOLERANCE = 2e-5
"""Largest difference allowed in hidden state, cell state and alpha, which are about -1..1 and depend on every weight.

Log-probabilities, and encoder outputs relative to their largest value, may differ by `TOLERANCE`. The cell state is
unbounded, so it is also compared relative to its largest value if that exceeds 1.
"""
UNDECIDED_SHARE = 0.01
"""Largest share of steps in which hard attention may choose another region because two are equally likely."""
_STEPS = 4
_CHUNK = 256  # pieces per step of `_every_piece`
Images = npt.NDArray[np.uint8]
Tensors = Mapping[str, npt.NDArray[Any]]
Call = tuple[Ids, Ids, Ids]
"""The indices of one decoding step: row (rows,), parent and token (rows, beams)."""
InspectableBackend = ModelBackend | ScriptBackend | OnnxBackend
"""Backends whose decoder state can be read and set."""


class ParityError(CaprunError):
    """The written graphs differ from PyTorch."""


@dataclass
class Parity:
    """The number of comparisons and the largest differences, as the manifest records them."""

    photos: int
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    beam_sizes: tuple[int, ...] = BEAM_SIZES
    encoder: float = 0.0
    state: float = 0.0
    log_prob: float = 0.0
    captions: int = 0
    near_ties: int = 0
    steps: int = 0
    undecided_steps: int = 0
    tolerance: float = TOLERANCE
    state_tolerance: float = STATE_TOLERANCE


def verify(
    reference: InspectableBackend,
    written: InspectableBackend,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    photos: Images,
    *,
    one_region: bool = False,
) -> Parity:
    """Compares two backends of one model on real photos, uint8 (photos, height, width, 3).

    Where hard attention (`one_region`) finds two regions equally likely, rounding decides which one it uses, and the
    caption continues differently. Such steps, in which PyTorch's log-probabilities of two regions are within
    `TOLERANCE`, are counted instead of compared; see `UNDECIDED_SHARE`.

    Returns:
        The largest differences found.

    Raises:
        ParityError: a difference exceeds its tolerance, or a caption differs and is not a near-tie.
    """
    comparison = _Comparison(reference, written, spec, vocabulary, one_region, Parity(len(photos)))
    parity, pieces = comparison.parity, len(vocabulary)
    rng = np.random.default_rng(0)
    for batch in BATCH_SIZES:
        context = comparison.compare_encoders(photos[np.arange(batch) % len(photos)])
        # a channel that is zero in real photos hides errors in its weights; random numbers do not
        noise = {name: rng.uniform(-1, 1, value.shape).astype(value.dtype) for name, value in context.items()}
        for beams in BEAM_SIZES:
            for tensors in (context, noise):
                comparison.compare_steps(tensors, _random_walk(rng, batch, beams, pieces))
    comparison.compare_steps(noise, _every_piece(pieces))
    if parity.undecided_steps > UNDECIDED_SHARE * parity.steps:
        raise ParityError(
            f"In {parity.undecided_steps} of {parity.steps} steps PyTorch finds two regions equally likely, and the "
            "written graphs use the other one. Train the attention further."
        )
    for size in BEAM_SIZES:
        comparison.compare_captions(photos, spec.search.plain(size))
    if comparison.differing:
        shown = "; ".join(comparison.differing[:3])
        raise ParityError(f"{len(comparison.differing)} of {parity.captions} captions differ from PyTorch's: {shown}.")
    return parity


def _random_walk(rng: np.random.Generator, batch: int, beams: int, vocabulary: int) -> list[Call]:
    """Draws steps like those of a search: one beam per photo becomes several, and photos finish."""
    row = np.arange(batch)
    calls = [(row, row[:, None], rng.integers(vocabulary, size=(batch, 1)))]
    before = 1
    for _ in range(_STEPS - 1):
        live = np.sort(rng.choice(len(row), size=max(1, len(row) - 1), replace=False))
        parent = live[:, None] * before + rng.integers(before, size=(len(live), beams))
        row, before = row[live], beams
        calls.append((row, parent, rng.integers(vocabulary, size=parent.shape)))
    return calls


def _every_piece(vocabulary: int) -> Iterator[Call]:
    """Yields steps that use every row of the embedding."""
    states = 0
    for first in range(0, vocabulary, _CHUNK):
        token = np.arange(first, min(first + _CHUNK, vocabulary))[None]
        yield np.zeros(1, np.int64), np.arange(token.size)[None] % max(1, states), token
        states = token.size


@dataclass(frozen=True)
class _Comparison:
    """Compares two backends of one model; see `verify`."""

    reference: InspectableBackend
    written: InspectableBackend
    spec: ModelSpec
    vocabulary: Vocabulary
    one_region: bool
    parity: Parity
    """Updated by every comparison."""
    differing: list[str] = field(default_factory=list)
    """A phrase for each caption that differs and is not a near-tie."""

    def compare_encoders(self, images: Images) -> Tensors:
        """Compares the encoders' outputs; returns PyTorch's."""
        expected = self.reference.encode(images).tensors()
        found = self.written.encode(images).tensors()
        if set(expected) != set(found):
            raise ParityError(f"The encoder yields {sorted(found)}; PyTorch yields {sorted(expected)}.")
        for name, value in expected.items():
            where = f"encoder output {name}, {len(images)} photos"
            difference = _differences(value, found[name], len(images), where).max() / _scale(value)
            _check(difference, TOLERANCE, where)
            self.parity.encoder = max(self.parity.encoder, float(difference))
        return expected

    def compare_steps(self, context: Tensors, calls: Iterable[Call]) -> None:
        """Compares steps of both decoders, which start each step from PyTorch's state."""
        parity = self.parity
        steps = self.reference.start(context, alpha=True)
        for row, parent, token in calls:
            written = self.written.start(steps.tensors(), alpha=True)
            expected, found = (one(row, parent, token, len(self.vocabulary)) for one in (steps, written))
            states, written_states = steps.tensors(), written.tensors()
            pairs = {"log-probabilities": (_by_piece(expected), _by_piece(found))}
            pairs |= {name: (states[name], written_states[name]) for name in ("hidden", "cell")}
            if expected.alpha is not None and found.alpha is not None:
                pairs["alpha"] = expected.alpha, found.alpha
            where = f"a step of {len(row)} photos x {token.shape[1]} beams"
            differences = {name: _differences(*pair, token.size, f"{name} of {where}") for name, pair in pairs.items()}
            differences["cell"] /= _scale(states["cell"])
            tolerances = {name: TOLERANCE if name == "log-probabilities" else STATE_TOLERANCE for name in pairs}
            excused = np.zeros(token.size, bool)
            if self.one_region:
                far = np.any([~(differences[name] <= tolerances[name]) for name in pairs], axis=0)
                excused = _undecided(expected, states["regions"][row]).ravel() & far
            parity.steps += token.size
            parity.undecided_steps += int(excused.sum())
            for name, by_beam in differences.items():
                difference = float(by_beam[~excused].max(initial=0.0))
                _check(difference, tolerances[name], f"{name} of {where}")
                if name == "log-probabilities":
                    parity.log_prob = max(parity.log_prob, difference)
                else:
                    parity.state = max(parity.state, difference)

    def compare_captions(self, photos: Images, options: SearchOptions) -> None:
        """Compares captions found in batches with those that PyTorch finds for one photo at a time."""
        reference, written = (Captioner(self.spec, self.vocabulary, one) for one in (self.reference, self.written))
        batch = BATCH_SIZES[-1]
        for first in range(0, len(photos), batch):
            images = photos[first : first + batch]
            for image, hypothesis in zip(images, written.search(images, options)[0], strict=True):
                (expected,) = reference.search(image[None], options)[0]
                self.parity.captions += 1
                if expected.ids != hypothesis.ids:
                    self._excuse(reference, image, (expected, hypothesis), options)

    def _excuse(
        self, reference: Captioner, image: Images, pair: tuple[Hypothesis, Hypothesis], options: SearchOptions
    ) -> None:
        """Records a caption that differs, either as a near-tie or for the error message."""
        both = [log_probs_in(reference, image, one) for one in pair]
        if (self.one_region and any(self._is_undecided_in(image, one) for one in pair)) or is_near_tie(
            both[0], both[1], pair, options
        ):
            self.parity.near_ties += 1
            return
        texts = [self.vocabulary.text(one.ids) for one in pair]
        self.differing.append(
            f"{texts[1]!r} instead of {texts[0]!r} (beam {options.beam_size}, log-probabilities {sum(both[1]):.5f} and "
            f"{sum(both[0]):.5f})"
        )

    def _is_undecided_in(self, image: Images, hypothesis: Hypothesis) -> bool:
        """Returns whether PyTorch finds two regions equally likely at any piece of a caption."""
        steps = self.reference.encode(image[None], alpha=True)
        regions = steps.tensors()["regions"]
        outputs = replay(steps, pieces_of(hypothesis, self.spec.special), len(self.vocabulary))
        return any(_undecided(output, regions).any() for output in outputs)


def _undecided(output: StepOutput, regions: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Returns where another region, with other features, is about as likely as the most likely one.

    Args:
        output: output of a step with hard attention.
        regions: (rows, regions, channels), the regions of the step's photos.

    Returns:
        bool (rows, beams).
    """
    assert output.alpha is not None
    undecided = np.zeros(output.alpha.shape[:2], bool)
    rivals = output.alpha >= output.alpha.max(2, keepdims=True) * np.exp(-TOLERANCE)
    for row, beam in np.argwhere(rivals.sum(2) > 1):
        seen = regions[row, rivals[row, beam]]
        undecided[row, beam] = np.abs(seen - seen[0]).max() > TOLERANCE
    return undecided


def _by_piece(output: StepOutput) -> npt.NDArray[np.float32]:
    """Returns log-probabilities in vocabulary order, in which ties have a defined order."""
    by_piece = np.full_like(output.log_prob, np.nan)
    np.put_along_axis(by_piece, output.candidate, output.log_prob, axis=2)
    return by_piece


def _differences(expected: npt.NDArray[Any], found: npt.NDArray[Any], count: int, what: str) -> npt.NDArray[np.float32]:
    """Returns the largest absolute difference in each beam, (count,); NaN stays NaN, which exceeds every tolerance.

    Args:
        expected: an array that starts with `count` beams, or with rows and beams.
        found: an array of the same shape.
        count: number of beams in all rows, or of photos.
        what: name of the arrays for an error message.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise ParityError(
            f"{what}: shape {found.shape} and dtype {found.dtype}; PyTorch has {expected.shape} and {expected.dtype}."
        )
    same = expected == found  # includes pairs of -inf, which marks pieces that are never generated
    difference = np.abs(np.subtract(expected, found, where=~same, out=np.zeros_like(expected)))
    largest: npt.NDArray[np.float32] = difference.reshape(count, -1).max(axis=1)
    return largest


def _scale(expected: npt.NDArray[Any]) -> float:
    """Returns the largest absolute value, at least 1, for a relative difference."""
    return max(1.0, float(np.abs(expected).max()))


def _check(difference: float, tolerance: float, what: str) -> None:
    if not difference <= tolerance:
        raise ParityError(
            f"The written graphs differ from PyTorch by {difference:.2g} (at most {tolerance:g} is allowed): {what}."
        )
