"""Plain data is converted to dataclasses, and errors name the field."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from caprun.bundle.plain_data import from_dict


@dataclass(frozen=True)
class Inner:
    number: int = 1


@dataclass(frozen=True)
class Outer:
    text: str
    share: float = 0.5
    flag: bool = False
    choice: Literal["a", "b", 1] = "a"
    pair: tuple[int, str] = (1, "x")
    several: tuple[Inner, ...] = ()
    either: int | str = 0
    maybe: Inner | None = None
    table: Mapping[str, Inner] = field(default_factory=dict)
    anything: Any = None


def outer(**data: object) -> Outer:
    return from_dict(Outer, {"text": "t", **data})


def test_a_missing_key_has_its_default() -> None:
    assert from_dict(Outer, {"text": "t"}) == Outer("t")


def test_every_kind_of_field_is_read() -> None:
    data = {
        "text": "t",
        "share": 0.25,
        "flag": True,
        "choice": 1,
        "pair": [2, "y"],
        "several": [{"number": 2}, {}],
        "either": "word",
        "maybe": {"number": 3},
        "table": {"a": {"number": 4}},
        "anything": [{"deep": None}],
    }
    inner = (Inner(2), Inner())
    expected = Outer("t", 0.25, True, 1, (2, "y"), inner, "word", Inner(3), {"a": Inner(4)}, [{"deep": None}])
    assert from_dict(Outer, data) == expected


def test_a_whole_number_in_a_float_field_becomes_a_float() -> None:
    assert type(outer(share=1).share) is float


def test_none_is_accepted_only_by_an_optional_field() -> None:
    assert outer(maybe=None).maybe is None
    with pytest.raises(ValueError, match="either is None"):
        outer(either=None)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"txt": "t"}, "unknown key 'txt'; the known keys are text, share"),
        ({}, "key 'text' is missing"),
        ({"text": "t", "maybe": {"numbr": 1}}, "unknown key 'maybe.numbr'"),
        ({"text": "t", "table": {"a": {"numbr": 1}}}, "unknown key 'table.a.numbr'"),
        ({"text": "t", "several": [{}, {"number": "2"}]}, r"several\[1\].number is '2'; it must be a whole number"),
        ({"text": 1}, "text is 1; it must be text"),
        ({"text": "t", "flag": 1}, "flag is 1; it must be true or false"),
        ({"text": "t", "maybe": {"number": True}}, "maybe.number is True; it must be a whole number"),
        ({"text": "t", "maybe": {"number": 1.0}}, "maybe.number is 1.0; it must be a whole number"),
        ({"text": "t", "share": "0.5"}, "share is '0.5'; it must be a finite number"),
        ({"text": "t", "share": True}, "share is True; it must be a finite number"),
        ({"text": "t", "share": float("nan")}, "share is nan; it must be a finite number"),
        ({"text": "t", "share": float("inf")}, "share is inf; it must be a finite number"),
        ({"text": "t", "share": 10**400}, "share is inf; it must be a finite number"),
        ({"text": "t", "choice": "c"}, "choice is 'c'; it must be one of a, b, 1"),
        ({"text": "t", "choice": True}, "choice is True; it must be one of"),
        ({"text": "t", "pair": [1]}, "pair must have 2 values, not 1"),
        ({"text": "t", "pair": ["1", "x"]}, r"pair\[0\] is '1'"),
        ({"text": "t", "several": "text"}, "several must be a list"),
        ({"text": "t", "several": {}}, "several must be a list"),
        ({"text": "t", "either": 1.5}, "either is 1.5; it must be a whole number"),
        ({"text": "t", "table": []}, "table must be a table of keys and values"),
        ({"text": "t", "table": {1: {}}}, "table must be a table of keys and values"),
        ({"text": "t", "maybe": 5}, "maybe must be a table"),
        ("text", "the top level must be a table"),
        (None, "the top level must be a table"),
    ],
)
def test_the_error_names_the_field_and_the_problem(data: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        from_dict(Outer, data)


def test_an_error_raised_by_the_dataclass_is_passed_on() -> None:
    @dataclass(frozen=True)
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        from_dict(Even, {"number": 3})
