"""Joins several datasets for training, each with its own format, splits and weight."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from caprun.errors import UsageError
from captioner.config import DataConfig
from captioner.datasets.dataset import Dataset, load_dataset
from captioner.datasets.embedded.hub import PREFIX, HubName
from captioner.datasets.example import SPLITS, Example, Problems, such_as
from captioner.errors import CaptionerError
from captioner.text.scripts import scripts_of
from captioner.text.splitting import split

_COMPARED = 5000  # captions per dataset, enough to recognise its language
_FOREIGN = 0.4  # share of known words below which captions count as another language
_OTHER_CASE = 0.5  # difference between the shares of captions that have a capital letter


@dataclass(frozen=True)
class DataSource:
    """A dataset given as `--data DATASET[=WEIGHT]`."""

    directory: Path
    """A folder, a Parquet file, or `hf:OWNER/NAME` on the Hugging Face hub."""
    weight: float = 1.0
    """Average number of times a training photo is shown per epoch: 2 is twice, 0.2 is in every fifth epoch."""

    @classmethod
    def parse(cls, text: str) -> DataSource:
        """Parses `DATASET` or `DATASET=WEIGHT`; an existing path that ends in `=2`, for example, has no weight.

        Raises:
            UsageError: the weight is not a finite number above zero, or the name of a hub dataset is malformed.
        """
        directory, equals, weight = text.rpartition("=")
        if text.startswith(PREFIX):
            HubName.parse(directory or text)
        if not equals or Path(text).exists():
            return cls(Path(text))
        try:
            value = float(weight)
        except ValueError:
            return cls(Path(text))  # a missing folder, which loading reports
        if not 0 < value < math.inf:
            raise UsageError(f"The weight of --data {text} is {weight}; give a number above 0, or leave it out.")
        return cls(Path(directory), value)

    def __str__(self) -> str:
        return str(self.directory) if self.weight == 1 else f"{self.directory}={self.weight!r}".removesuffix(".0")


def load_datasets(
    sources: Sequence[DataSource],
    config: DataConfig | None = None,
    *,
    allow_missing: bool = False,
    cache: Path | None = None,
) -> Dataset:
    """Reads one or more datasets and joins them.

    Each dataset keeps its own splits; missing splits are drawn (`load_dataset`). A training photo whose file is also a
    dev or test photo of another dataset is left out of the training split. Differences in script, language or case are
    noted.

    Args:
        sources: the datasets and their weights.
        config, allow_missing, cache: as for `load_dataset`, applied to every dataset.

    Raises:
        CaptionerError: a dataset is named twice, or as for `load_dataset`.
    """
    places: list[Path] = []
    for source in sources:
        if (place := source.directory.resolve()) in places:
            raise CaptionerError(f"--data names {source.directory} twice; name it once, weighted with =WEIGHT.")
        places.append(place)
    loaded = [
        replace(load_dataset(source.directory, config, allow_missing=allow_missing, cache=cache), weight=source.weight)
        for source in sources
    ]
    if len(loaded) == 1:
        return loaded[0]
    parts, notes = _without_leaks(_named(loaded, places))
    notes += [note for other in parts[1:] for note in _differences(parts[0], other)]
    return Dataset(
        ", ".join(dict.fromkeys(part.format for part in parts)),
        tuple(example for part in parts for example in part.examples),
        Problems(),
        "of each dataset",
        parts=tuple(parts),
        notes=tuple(notes),
    )


def _named(datasets: Sequence[Dataset], places: Sequence[Path]) -> list[Dataset]:
    """Names each dataset after its folder, with as many parent folders as needed to distinguish them."""
    depth = 1
    names = [place.name for place in places]
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(place.parts[-depth:]) for place in places]
    return [
        replace(dataset, name=name, examples=tuple(replace(e, dataset=name) for e in dataset.examples))
        for dataset, name in zip(datasets, names, strict=True)
    ]


def _without_leaks(datasets: Sequence[Dataset]) -> tuple[list[Dataset], list[str]]:
    """Leaves out training photos that are dev or test photos of another dataset, and describes all shared photos."""
    same = _same_files(datasets)
    notes, leaked = [], set()
    pairs: Counter[tuple[str, str]] = Counter()
    for group in same:
        held_out = {example.dataset for example in group if example.split != "train"}
        leaked |= {e.image for e in group if e.split == "train" and held_out - {e.dataset}}
        names = sorted({example.dataset for example in group})
        pairs.update((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    for (first, second), count in sorted(pairs.items()):
        shared = [g[0].image.name for g in same if {first, second} <= {example.dataset for example in g}]
        notes.append(f"{count} photos are in both {first} and {second}: {such_as(shared)}")
    if leaked:
        notes.append(
            f"{len(leaked)} training photos are dev or test photos of another dataset and are left out: "
            f"{such_as(sorted(image.name for image in leaked))}"
        )
    return [dataset.without(leaked) for dataset in datasets], notes


def _same_files(datasets: Sequence[Dataset]) -> list[list[Example]]:
    """Finds photos with the same bytes in different datasets; only files of equal size are read."""
    by_size: defaultdict[int, list[Example]] = defaultdict(list)
    for dataset in datasets:
        for example in dataset.examples:
            try:
                by_size[example.image.stat().st_size].append(example)
            except OSError:
                continue  # reported when photos are opened
    groups: defaultdict[str, list[Example]] = defaultdict(list)
    for size, examples in by_size.items():
        if len({example.dataset for example in examples}) > 1:
            for example in examples:
                try:
                    digest = hashlib.sha256(example.image.read_bytes()).hexdigest()
                except OSError:
                    continue
                groups[f"{size}/{digest}"].append(example)
    return [group for group in groups.values() if len({example.dataset for example in group}) > 1]


def _differences(first: Dataset, other: Dataset) -> list[str]:
    """Describes how the captions of a dataset differ from those of the first in script, language or case."""
    mine, theirs = (list(islice(_captions(dataset), _COMPARED)) for dataset in (first, other))
    scripts = [next(iter(scripts_of(captions)), "no letters") for captions in (mine, theirs)]
    if scripts[0] != scripts[1]:
        what = f"the captions of {other.name} are in a different script than those of {first.name}"
        return [f"{what} ({scripts[1]}, not {scripts[0]})"]
    notes = []
    known = max(_known(mine, theirs), _known(theirs, mine))
    # without spaces between words, even captions in the same language share few words
    if known < _FOREIGN and " " in " ".join(theirs[:1]).strip():
        notes.append(
            f"the captions of {other.name} share {known:.0%} of their words with those of {first.name}: they seem to "
            "be in a different language"
        )
    capitals = [sum(caption != caption.lower() for caption in captions) / len(captions) for captions in (mine, theirs)]
    if abs(capitals[0] - capitals[1]) > _OTHER_CASE:
        notes.append(
            f"{capitals[1]:.0%} of the captions of {other.name} have capital letters, and {capitals[0]:.0%} of those "
            f"of {first.name}"
        )
    return notes


def _captions(dataset: Dataset) -> Iterable[str]:
    return (caption for example in dataset.examples for caption in example.references)


def _known(captions: Iterable[str], others: Iterable[str]) -> float:
    """Returns the share of word occurrences in `captions` whose word is also in `others`."""
    words = Counter(token.text for caption in captions for token in split(caption))
    known = {token.text for caption in others for token in split(caption)}
    return sum(count for word, count in words.items() if word in known) / max(words.total(), 1)


def split_sizes(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Counts the photos in each split, by dataset name."""
    return {
        part.name: {name: count for name in SPLITS if (count := sum(e.split == name for e in part.examples))}
        for part in dataset.parts or (dataset,)
    }
