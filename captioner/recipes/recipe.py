"""What a recipe says: every stage's whole configuration and the export's settings, all checked before anything runs."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from caprun.bundle.plain_data import from_dict
from caprun.errors import UsageError
from captioner.config import Config, load_config, load_second_config
from captioner.errors import CaptionerError
from captioner.ranges import check_ranges

DEFAULT = "everyday"
"""The recipe of the packaged model."""
_HERE = Path(__file__).parent
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")


@dataclass(frozen=True)
class ExportSettings:
    """A recipe's `[export]`: what becomes of the last stage's best checkpoint; see `captioner export`."""

    precisions: tuple[Literal["fp32", "int8", "fp16"], ...] = ("fp32",)
    """Graphs to write; those of fp32 always are."""
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How int8 chooses its ranges."""
    name: str = ""
    """The model's name; empty: the bundle's folder's."""
    licence: str = "unknown"
    """Licence of the weights."""
    card: str = ""
    """A file beside the recipe with the text that the model card begins with; empty: none."""
    data_photos: int = 200
    """Dev photos that the graphs are compared with PyTorch on."""

    def __post_init__(self) -> None:
        check_ranges(self, data_photos=(1, 10**9))


@dataclass(frozen=True)
class Stage:
    """A training of a recipe's, or an average of those before it."""

    number: int
    """From 1."""
    name: str
    config: Config
    """Of an average, the configuration of the stage before, which the next goes on with."""
    average: Mapping[str, float] = field(default_factory=dict)
    """Weights of the best checkpoints of other stages, by name; empty for a training."""
    init: str = ""
    """Name of the stage whose best checkpoint a training begins with; empty for the first."""

    @property
    def folder(self) -> str:
        """Its name in the folder of the run."""
        return f"{self.number}-{self.name}"


@dataclass(frozen=True)
class Recipe:
    """Stages, each beginning with the best of the one before, and an export."""

    name: str
    stages: tuple[Stage, ...]
    export: ExportSettings = field(default_factory=ExportSettings)
    card: Path | None = None
    """The file that `export.card` names."""

    def trained(self) -> list[dict[str, Any]]:
        """All that the trained model depends on, as plain data."""
        stages = [
            {"name": stage.name, "average": dict(stage.average)}
            if stage.average
            else {"name": stage.name, "init": stage.init, **_looked_at(stage.config)}
            for stage in self.stages
        ]
        plain: list[dict[str, Any]] = json.loads(json.dumps(stages))  # lists for tuples, as a file gives them back
        return plain

    @property
    def sha256(self) -> str:
        """Of that."""
        return hashlib.sha256(json.dumps(self.trained(), sort_keys=True).encode()).hexdigest()

    def exported(self, **settings: Any) -> Recipe:
        """The same with other settings of the export, where they are not None."""
        given = {key: value for key, value in settings.items() if value is not None}
        card = given.pop("card", self.card)
        return replace(self, export=replace(self.export, **given), card=card)


def _looked_at(config: Config) -> dict[str, Any]:
    sections = asdict(config)
    if config.train.stage == "cross-entropy":
        del sections["self_critical"]  # nothing but the other stage's defaults
    return sections


def find_recipe(name: str | None) -> Path:
    """The file of a recipe: a path, or the name of one that comes with captioner; the packaged model's without.

    Raises:
        CaptionerError: there is none.
    """
    packaged = {file.stem: file for file in sorted(_HERE.glob("*.toml"))}
    file = packaged.get(name or DEFAULT, Path(name or DEFAULT))
    if not file.is_file():
        raise CaptionerError(
            f"There is no recipe {name}; name a TOML file, or one that comes with captioner: {', '.join(packaged)}."
        )
    return file


def read_recipe(file: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe, and check every setting of every stage.

    Args:
        file: TOML with a table `[[stage]]` a training or average, and `[export]`.
        settings: `section.key=value`, over those of every stage.

    Raises:
        CaptionerError: not TOML, an unknown key, a value that cannot be, a stage that contradicts the one before, or a
            file that is not there.
    """
    data = _read(file)
    if unknown := sorted(set(data) - {"stage", "export"}):
        raise CaptionerError(f"The recipe {file} has an unknown key {unknown[0]!r}; known here are stage, export.")
    tables = data.get("stage")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise CaptionerError(f"The recipe {file} has no stages; each is a table [[stage]].")
    stages: list[Stage] = []
    for number, table in enumerate(tables, 1):
        stages.append(_stage(file, number, table, settings, stages))
    try:
        export = from_dict(ExportSettings, data.get("export", {}), "export")
    except (ValueError, UsageError) as error:
        raise CaptionerError(f"In the recipe {file}: {str(error).rstrip('.')}.") from None
    return Recipe(file.stem, tuple(stages), export, file.parent / export.card if export.card else None)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaptionerError(f"The recipe {file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CaptionerError(f"The recipe {file} is not TOML: {error}.") from None


def _stage(
    file: Path, number: int, table: Mapping[str, Any], settings: Sequence[str], before: Sequence[Stage]
) -> Stage:
    where = f"stage {number} of the recipe {file}"
    name = table.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CaptionerError(f"The name of {where} must be of the letters a to z, digits and hyphens; it is {name!r}.")
    if name in (stage.name for stage in before):
        raise CaptionerError(f"The name of {where} ({name}) is that of a stage before it; name it otherwise.")
    if "average" in table:
        shares = _average(f"{where} ({name})", table, before)
        return Stage(number, name, before[-1].config, shares)
    start = _start(f"{where} ({name})", table, before)
    first = start.config if start else None
    given = []
    for section, values in table.items():
        if section in ("name", "init"):
            continue
        if not isinstance(values, dict):
            raise CaptionerError(f"In {where}, {section!r} must be a table, such as {section}.key = value.")
        given += [f"{section}.{key}={_toml(value)}" for key, value in values.items()]
    try:
        if first is None:
            config = load_config(None, [*given, *settings])
        else:
            config = load_second_config(None, [*given, *settings], first)
    except CaptionerError as error:
        raise CaptionerError(f"In {where} ({name}): {_reason(error)}") from None
    if first is None and config.train.stage == "self-critical":
        raise CaptionerError(f"In {where} ({name}): the self-critical stage needs one before it to go on from.")
    return Stage(number, name, config, init=start.name if start else "")


def _start(where: str, table: Mapping[str, Any], before: Sequence[Stage]) -> Stage | None:
    """Returns the stage that a training begins with: the one that `init` names, or the one before."""
    if "init" not in table:
        return before[-1] if before else None
    known = {stage.name: stage for stage in before}
    if table["init"] not in known:
        there = ", ".join(known) or "none"
        raise CaptionerError(f"In {where}: init is {table['init']!r}; it must name a stage before it: {there}.")
    return known[table["init"]]


def _average(where: str, table: Mapping[str, Any], before: Sequence[Stage]) -> dict[str, float]:
    """Whose and how much, checked."""
    if more := sorted(set(table) - {"name", "average"}):
        raise CaptionerError(f"In {where}: an average has no settings; leave out {more[0]!r}.")
    shares, known = table["average"], [stage.name for stage in before]
    if not isinstance(shares, dict) or len(shares) < 2:
        raise CaptionerError(f"In {where}: average is of two stages or more, such as {{ first = 1, second = 1 }}.")
    for name, share in shares.items():
        if name not in known:
            there = ", ".join(known) or "none"
            raise CaptionerError(f"In {where}: there is no stage {name!r} before it; there are: {there}.")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf:
            raise CaptionerError(f"In {where}: the weight of {name} is {share!r}; it must be a number above 0.")
    return {name: float(share) for name, share in shares.items()}


def _reason(error: CaptionerError) -> str:
    return str(error).removeprefix("In the configuration (the options given): ")


def _toml(value: object) -> str:
    import tomli_w  # of the extra for training

    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def differences(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs between two recipes, as `Recipe.trained` gives them: a phrase each."""
    if len(before) != len(now):
        return [f"it had {len(before)} stages and has {len(now)}"]
    found = []
    for number, (old, new) in enumerate(zip(before, now, strict=True), 1):
        flat = _flat(old), _flat(new)
        for key in sorted(flat[0].keys() | flat[1].keys()):
            was, is_ = (one.get(key) for one in flat)
            if was != is_:
                found.append(f"{key} of stage {number} was {was!r} and is {is_!r}")
    return found


def _flat(stage: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, values in stage.items():
        flat |= {f"{section}.{key}": v for key, v in values.items()} if isinstance(values, dict) else {section: values}
    return flat
