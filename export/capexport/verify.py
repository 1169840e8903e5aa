"""Whether written graphs say the same as PyTorch: encoder outputs, decoding steps, captions.

The graphs are run as a user will run them, from the files of the bundle, by the runtime's own code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from caprun.arrays import Ids
from caprun.bundle.manifest import ModelSpec
from caprun.bundle.vocabulary import Special, Vocabulary
from caprun.engine import Backend
from caprun.errors import CaprunError
from caprun.search.decoding import search
from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions
from caprun.search.steps import StepOutput, Steps

BATCH_SIZES = (1, 2, 5, 16)
BEAM_SIZES = (1, 3, 5)
TOLERANCE = 1e-4
"""Largest difference of encoder outputs (relative to the largest value), log-probabilities and near-tie scores."""
STATE_TOLERANCE = 2e-5
"""Largest difference of hidden and cell state and of alpha, which lie in about -1..1 and feel every weight."""
UNDECIDED_SHARE = 0.01
"""Most steps, of those compared, in which a model that looks at one region may be undecided and look at another."""
_STEPS = 4
_CHUNK = 256  # pieces fed at once when the whole vocabulary is


class ParityError(CaprunError):
    """What was written says something else than PyTorch."""


class InspectableSteps(Steps, Protocol):
    """Steps whose state can be looked at."""

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """State and context as they are now."""
        ...


class InspectableBackend(Protocol):
    """A backend whose decoder can be started anywhere."""

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> InspectableSteps:
        """See `caprun.engine.Backend`."""
        ...

    def start(self, tensors: Mapping[str, npt.NDArray[Any]], *, alpha: bool = False) -> InspectableSteps:
        """Start the decoder from given state and context."""
        ...


@dataclass
class Parity:
    """What was compared and the largest differences found."""

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
    differing: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {key: value for key, value in asdict(self).items() if key != "differing"}


def verify(
    reference: InspectableBackend,
    written: InspectableBackend,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    photos: npt.NDArray[np.uint8],
    *,
    one_region: bool = False,
) -> Parity:
    """Compare two backends of one model.

    A model that looks at one region jumps where two are equally likely: a rounding error decides, and what follows is
    another sentence of the same model. So where PyTorch's log-probabilities of two regions are within `TOLERANCE`,
    which one was seen is not compared, but counted; see `UNDECIDED_SHARE`.

    Args:
        reference: PyTorch.
        written: the files.
        spec: the model's special ids and search defaults.
        vocabulary: its pieces.
        photos: uint8 (photos, height, width, 3), real ones.
        one_region: whether the model looks at the most likely region alone (hard attention).

    Raises:
        ParityError: a difference above the tolerance, or a caption that differs and is no near-tie.
    """
    parity = Parity(len(photos))
    pieces = len(vocabulary)
    rng = np.random.default_rng(0)
    for batch in BATCH_SIZES:
        images = photos[np.arange(batch) % len(photos)]
        context = _compare_encoders(reference, written, images, parity)
        # real photos may leave a channel at zero, and what multiplies it unseen; random numbers leave none
        noise = {name: rng.uniform(-1, 1, value.shape).astype(value.dtype) for name, value in context.items()}
        for beams in BEAM_SIZES:
            for tensors in (context, noise):
                calls = _random_walk(rng, batch, beams, pieces)
                _compare_steps(reference, written, tensors, calls, pieces, parity, one_region=one_region)
    _compare_steps(reference, written, noise, _every_piece(pieces), pieces, parity, one_region=one_region)
    if parity.undecided_steps > UNDECIDED_SHARE * parity.steps:
        raise ParityError(
            f"In {parity.undecided_steps} of {parity.steps} steps PyTorch finds two regions equally likely, and what "
            "was written looks at the other; train the attention further."
        )
    for size in BEAM_SIZES:
        options = spec.search.plain(size)
        _compare_captions(reference, written, spec, vocabulary, photos, options, parity, one_region=one_region)
    if parity.differing:
        shown = "; ".join(parity.differing[:3])
        raise ParityError(f"{len(parity.differing)} of {parity.captions} captions differ from PyTorch's: {shown}.")
    return parity


Call = tuple[Ids, Ids, Ids]


def _random_walk(rng: np.random.Generator, batch: int, beams: int, vocabulary: int) -> list[Call]:
    """Steps as a search takes them: one beam a photo becomes several, and photos drop out."""
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
    """Steps that feed every piece once: no row of the embedding goes unseen."""
    states = 0
    for first in range(0, vocabulary, _CHUNK):
        token = np.arange(first, min(first + _CHUNK, vocabulary))[None]
        yield np.zeros(1, np.int64), np.arange(token.size)[None] % max(1, states), token
        states = token.size


def _compare_encoders(
    reference: InspectableBackend, written: InspectableBackend, images: npt.NDArray[np.uint8], parity: Parity
) -> dict[str, npt.NDArray[Any]]:
    expected = reference.encode(images).tensors()
    found = written.encode(images).tensors()
    if set(expected) != set(found):
        raise ParityError(f"The encoder gives {sorted(found)} and PyTorch gives {sorted(expected)}.")
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max()))
        parity.encoder = max(parity.encoder, _difference(value, found[name], f"the encoder's {name}") / scale)
    _check(parity.encoder, TOLERANCE, f"encoder outputs, {len(images)} photos")
    return expected


def _compare_steps(
    reference: InspectableBackend,
    written: InspectableBackend,
    context: Mapping[str, npt.NDArray[Any]],
    calls: Iterable[Call],
    vocabulary: int,
    parity: Parity,
    *,
    one_region: bool,
) -> None:
    strayed = np.zeros(0, bool)  # states that come from another region than PyTorch's
    # both start from the same numbers, so that what is compared is the decoder alone
    expected_steps, found_steps = reference.start(context, alpha=True), written.start(context, alpha=True)
    for row, parent, token in calls:
        where = f"a step of {len(row)} photos x {token.shape[1]} beams"
        expected, found = (steps(row, parent, token, vocabulary) for steps in (expected_steps, found_steps))
        before, after = expected_steps.tensors(), found_steps.tensors()
        compared = [_Compared("log-probabilities", TOLERANCE, _by_piece(expected), _by_piece(found))]
        compared += [_Compared(name, STATE_TOLERANCE, before[name], after[name]) for name in ("hidden", "cell")]
        if expected.alpha is not None and found.alpha is not None:
            compared.append(_Compared("alpha", STATE_TOLERANCE, expected.alpha, found.alpha))
        for one in compared:
            _check_form(one.expected, one.found, f"{one.name} of {where}")
        parity.steps += token.size
        if one_region:
            excused = _undecided(expected, before["regions"][row]) | (strayed[parent] if len(strayed) else False)
            far = excused & np.any([_is_far(one, token.shape) for one in compared], axis=0)
            parity.undecided_steps += int(far.sum())
            strayed = far.ravel()
            compared = [_without(one, far) for one in compared]
        for name, tolerance, value, other in compared:
            difference = _difference(value, other, f"{name} of {where}")
            if name == "log-probabilities":
                parity.log_prob = max(parity.log_prob, difference)
            else:
                parity.state = max(parity.state, difference)
            _check(difference, tolerance, f"{name}, {where}")


class _Compared(NamedTuple):
    """Something that a step gives: (rows, beams, values) or (rows x beams, ...)."""

    name: str
    tolerance: float
    expected: npt.NDArray[np.float32]
    found: npt.NDArray[np.float32]


def _undecided(output: StepOutput, regions: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Whether another region, and not just one that looks the same, is about as likely as the likeliest.

    Args:
        output: of a step that looks at one region.
        regions: (rows, regions, channels), what its photos have.

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


def _is_far(one: _Compared, beams: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(rows, beams): whether anything of a beam differs by more than it may."""
    expected, found = (values.reshape(*beams, -1) for values in (one.expected, one.found))
    same = expected == found  # two infinities among them, whose difference is no number
    difference = np.abs(np.subtract(expected, found, where=~same, out=np.zeros_like(expected)))
    far: npt.NDArray[np.bool_] = ~np.all(difference <= one.tolerance, axis=2)
    return far


def _without(one: _Compared, beams: npt.NDArray[np.bool_]) -> _Compared:
    """The same where nothing is found to differ in those beams."""
    expected, found = (values.reshape(*beams.shape, -1) for values in (one.expected, one.found))
    return one._replace(expected=expected, found=np.where(beams[:, :, None], expected, found))


def _by_piece(output: StepOutput) -> npt.NDArray[np.float32]:
    """Log-probabilities in the vocabulary's order, which does not depend on how ties are sorted."""
    by_piece = np.full_like(output.log_prob, np.nan)
    np.put_along_axis(by_piece, output.candidate, output.log_prob, axis=2)
    return by_piece


def _check_form(expected: npt.NDArray[Any], found: npt.NDArray[Any], what: str) -> None:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise ParityError(
            f"{what} have shape {found.shape} and dtype {found.dtype}; "
            f"PyTorch's have {expected.shape} and {expected.dtype}."
        )


def _difference(expected: npt.NDArray[Any], found: npt.NDArray[Any], what: str) -> float:
    """The largest absolute difference; -inf, for pieces that are never said, must be in the same places."""
    _check_form(expected, found, what)
    never = np.isneginf(expected)
    if not np.array_equal(never, np.isneginf(found)):
        raise ParityError(f"{what} rule out other pieces than PyTorch does.")
    # a NaN on either side stays one, and no tolerance admits it
    return float(np.abs(np.subtract(expected, found, where=~never, out=np.zeros_like(expected))).max(initial=0.0))


def _check(difference: float, tolerance: float, what: str) -> None:
    if not difference <= tolerance:
        raise ParityError(f"What was written differs from PyTorch by {difference:.2g} (at most {tolerance:g}): {what}.")


def _compare_captions(
    reference: InspectableBackend,
    written: InspectableBackend,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    photos: npt.NDArray[np.uint8],
    options: SearchOptions,
    parity: Parity,
    *,
    one_region: bool,
) -> None:
    """Captions of the whole set in batches, against PyTorch's of one photo at a time: batches must not matter."""
    special, pieces = spec.special, len(vocabulary)
    batch = BATCH_SIZES[-1]
    for first in range(0, len(photos), batch):
        images = photos[first : first + batch]
        found = search(written.encode(images), len(images), special.start, special.end, options)
        for image, hypothesis in zip(images, found, strict=True):
            (expected,) = search(reference.encode(image[None]), 1, special.start, special.end, options)
            parity.captions += 1
            if expected.ids == hypothesis.ids:
                continue
            pair = (expected, hypothesis)
            both = [log_probs_in(reference, image, h, special, pieces) for h in pair]
            jumps = one_region and any(_is_undecided_in(reference, image, h, special, pieces) for h in pair)
            if jumps or is_near_tie(both[0], both[1], pair, options):
                parity.near_ties += 1
            else:
                parity.differing.append(
                    f"{vocabulary.text(hypothesis.ids)!r} for {vocabulary.text(expected.ids)!r} "
                    f"(beam {options.beam_size}, log-probabilities {sum(both[1]):.5f} and {sum(both[0]):.5f})"
                )


def is_near_tie(
    first: list[float],
    second: list[float],
    captions: Sequence[Hypothesis],
    options: SearchOptions,
    tolerance: float = TOLERANCE,
) -> bool:
    """Whether two captions score alike: in the end, or where they part, after which each goes its own way.

    Args:
        first, second: the log-probabilities of their pieces by the same model, see `log_probs_in`.
        captions: the two.
        options: how they were found.
        tolerance: largest difference of scores that are alike.
    """
    scores = [sum(log_probs) / len(log_probs) ** options.length_penalty for log_probs in (first, second)]
    if abs(scores[0] - scores[1]) <= tolerance:
        return True
    pairs = zip_longest(captions[0].ids, captions[1].ids)
    parted = 1 + next(position for position, (one, other) in enumerate(pairs) if one != other)
    return abs(sum(first[:parted]) - sum(second[:parted])) <= tolerance


def log_probs_in(
    backend: Backend,
    image: npt.NDArray[np.uint8],
    hypothesis: Hypothesis,
    special: Special,
    pieces: int,
) -> list[float]:
    """The log-probability that a backend gives to each piece of a caption somebody else found, END among them.

    Args:
        backend: who is asked.
        image: uint8 (height, width, 3).
        hypothesis: the caption.
        special: ids of START and END.
        pieces: size of the vocabulary.
    """
    said = _said(hypothesis, special)
    outputs = _replay(backend.encode(image[None]), said, pieces)
    return [
        float(output.log_prob[output.candidate == following][0])
        for output, following in zip(outputs, said[1:], strict=True)
    ]


def _is_undecided_in(
    backend: InspectableBackend,
    image: npt.NDArray[np.uint8],
    hypothesis: Hypothesis,
    special: Special,
    pieces: int,
) -> bool:
    """Whether at any of its words it was undecided which region to look at."""
    steps = backend.encode(image[None], alpha=True)
    regions = steps.tensors()["regions"]
    outputs = _replay(steps, _said(hypothesis, special), pieces)
    return any(_undecided(output, regions).any() for output in outputs)


def _said(hypothesis: Hypothesis, special: Special) -> list[int]:
    return [special.start, *hypothesis.ids, *([special.end] if hypothesis.finished else [])]


def _replay(steps: Steps, said: Sequence[int], pieces: int) -> list[StepOutput]:
    """What is said to follow each piece but the last."""
    zero = np.zeros((1, 1), np.int64)
    return [steps(zero[0], zero, np.full((1, 1), token), pieces) for token in said[:-1]]
