"""Examples for an export are drawn from every dataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from capexport.examples import drawn_from_each_dataset, from_each_dataset
from captioner.datasets import Example


def make(**counts: int) -> list[Example]:
    return [Example(Path(f"{name}{i}"), ("a",), "dev", name) for name, count in counts.items() for i in range(count)]


def names(examples: list[Example]) -> list[str]:
    return [example.image.name for example in examples]


def test_a_single_dataset_gives_its_first_examples() -> None:
    assert names(from_each_dataset(make(a=5), 3)) == ["a0", "a1", "a2"]
    assert names(from_each_dataset(make(a=2), 3)) == ["a0", "a1"]
    assert from_each_dataset([], 3) == []


def test_several_datasets_take_turns_until_they_run_out() -> None:
    assert names(from_each_dataset(make(a=4, b=1, c=2), 6)) == ["a0", "b0", "c0", "a1", "c1", "a2"]


def test_a_draw_is_repeatable_and_gives_equal_shares() -> None:
    examples = make(a=1000, b=30, c=300)
    drawn = drawn_from_each_dataset(examples, 100)
    assert drawn == drawn_from_each_dataset(examples, 100)
    assert Counter(example.dataset for example in drawn) == {"a": 35, "b": 30, "c": 35}
    assert len(set(names(drawn))) == 100
    assert names(drawn) != names(from_each_dataset(examples, 100))
