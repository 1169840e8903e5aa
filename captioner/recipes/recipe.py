"""A recipe: the configuration of every stage and the export settings, all checked before anything runs."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from caprun.bundle.plain_data import from_dict
from caprun.bundle.writing import describe_file
from caprun.errors import UsageError
from captioner.config import Config, ExportSettings, load_config, load_second_config, merged, read_toml, used_settings
from captioner.errors import CaptionerError
from captioner.models.checkpoint import PACKAGED, checkpoint_file, load_checkpoint

DEFAULT = "everyday"
"""The recipe of the packaged model."""
_HERE = Path(__file__).parent
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")


@dataclass(frozen=True)
class Stage:
    """A training, or an average of earlier stages."""

    number: int
    """Position in the recipe, from 1."""
    name: str
    config: Config
    """Configuration of the training; for an average, that of the previous stage with the average's own search."""
    average: Mapping[str, float] = field(default_factory=dict)
    """Weights of the best checkpoints of earlier stages, by name; empty for a training."""
    init: str = ""
    """Name of the stage whose best checkpoint training starts from; empty if there is none."""
    checkpoint: Path | None = None
    """The checkpoint that training starts from, unless it is that of a stage."""
    new_vocabulary: bool = False
    """Keeps only the encoder of the model that training starts from."""

    @property
    def folder(self) -> str:
        """Name of the stage's folder in the run folder."""
        return f"{self.number}-{self.name}"


@dataclass(frozen=True)
class Recipe:
    """Stages, each of which starts from the best checkpoint of an earlier one, and an export."""

    name: str
    stages: tuple[Stage, ...]
    export: ExportSettings = field(default_factory=ExportSettings)

    def trained(self) -> dict[str, Any]:
        """Returns everything that the trained model depends on, as plain data by names such as `stage 2 train.lr`."""
        found: dict[str, Any] = {}
        for stage in self.stages:
            start: dict[str, Any] = {"init": stage.init}
            if stage.checkpoint is not None:
                start["init"] = describe_file(checkpoint_file(stage.checkpoint)).sha256
            if stage.new_vocabulary:
                start["new_vocabulary"] = True
            sections: Mapping[str, Any] = (
                {"average": dict(stage.average), "search": asdict(stage.config.search)}
                if stage.average
                else used_settings(asdict(stage.config), stage.config.train.stage)
            )
            flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
            settings = {"name": stage.name, **({} if stage.average else start), **flat}
            found |= {f"stage {stage.number} {name}": value for name, value in settings.items()}
        plain: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists, as in a file
        return plain

    @property
    def sha256(self) -> str:
        """The digest of `trained()`."""
        return hashlib.sha256(json.dumps(self.trained(), sort_keys=True).encode()).hexdigest()


def find_recipe(name: str | None) -> Path:
    """Returns the file of a recipe.

    Args:
        name: a path, the name of a recipe that comes with captioner, or None for the packaged model's recipe.

    Raises:
        CaptionerError: there is no such recipe.
    """
    packaged = {file.stem: file for file in sorted(_HERE.glob("*.toml"))}
    file = packaged.get(name or DEFAULT, Path(name or DEFAULT))
    if not file.is_file():
        raise CaptionerError(
            f"There is no recipe {name}; name a TOML file, or a recipe of captioner: {', '.join(packaged)}."
        )
    return file


def read_recipe(
    file: Path, settings: Mapping[str, Any] | None = None, first: Mapping[str, Any] | None = None
) -> Recipe:
    """Reads a recipe, and checks every setting of every stage.

    Args:
        file: TOML with a table `[[stage]]` for each training or average, and `[export]`.
        settings: settings by section that take precedence over those of every stage that uses them.
        first: `init` and `new_vocabulary` of the first stage, which take precedence over the file.

    Raises:
        CaptionerError: the file cannot be read or is not TOML, a key is unknown, a value is invalid, a stage
            contradicts the one it starts from, or no stage uses one of `settings`.
    """
    data, settings = read_toml(file, "recipe"), settings or {}
    if unknown := sorted(set(data) - {"stage", "export"}):
        raise CaptionerError(f"The recipe {file} has an unknown key {unknown[0]!r}; use stage or export.")
    tables = data.get("stage")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise CaptionerError(f"The recipe {file} has no stages; add a [[stage]] table for each one.")
    stages: list[Stage] = []
    for table in [{**tables[0], **(first or {})}, *tables[1:]]:
        stages.append(_stage(file, table, settings, stages))
    _check_used(file, settings, stages)
    try:
        export = from_dict(ExportSettings, data.get("export", {}), "export")
    except (ValueError, UsageError) as error:
        raise CaptionerError(f"In the recipe {file}: {str(error).rstrip('.')}.") from None
    if export.card:
        export = replace(export, card=str(file.parent / export.card))
    return Recipe(file.stem, tuple(stages), export)


def _check_used(file: Path, settings: Mapping[str, Any], stages: Sequence[Stage]) -> None:
    kinds = {stage.config.train.stage for stage in stages if not stage.average}
    used = merged(*(used_settings(settings, kind) for kind in kinds))
    for section, values in settings.items():
        for key in values:
            if key not in used.get(section, {}):
                raise CaptionerError(f"No stage of the recipe {file} uses --set {section}.{key}; leave it out.")


def _stage(file: Path, table: Mapping[str, Any], settings: Mapping[str, Any], before: Sequence[Stage]) -> Stage:
    number = len(before) + 1
    where = f"stage {number} of the recipe {file}"
    name = table.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CaptionerError(f"The name of {where} is {name!r}; use only the letters a to z, digits and hyphens.")
    known = {stage.name: stage for stage in before}
    if name in known:
        raise CaptionerError(f"The name of {where} ({name}) is used by an earlier stage; choose another.")
    where = f"stage {number} ({name}) of the recipe {file}"
    if "average" in table:
        average = _average(where, table, known)
        search = merged({"search": table.get("search", {})}, {"search": settings.get("search", {})})
        return Stage(number, name, load_config(search, base=before[-1].config, source=where), average)
    own = {section: values for section, values in table.items() if section not in ("name", "init", "new_vocabulary")}
    for section, values in own.items():
        if not isinstance(values, dict):
            raise CaptionerError(f"In {where}, {section!r} must be a table, such as {section}.key = value.")
    settings = used_settings(settings, merged(own, settings).get("train", {}).get("stage", ""))
    start = _start(where, table, known)
    new_vocabulary = table.get("new_vocabulary", False)
    if type(new_vocabulary) is not bool:
        raise CaptionerError(f"In {where}: new_vocabulary is {new_vocabulary!r}; it must be true or false.")
    if start is None:
        if new_vocabulary:
            raise CaptionerError(f"In {where}: a new vocabulary keeps the encoder of a trained model; set init to one.")
        config = load_config(merged(own, settings), source=where)
        if config.train.stage == "self-critical":
            raise CaptionerError(f"In {where}: the self-critical stage needs an earlier stage to start from.")
        return Stage(number, name, config)
    first = start.config if isinstance(start, Stage) else load_checkpoint(start).config
    config = load_second_config(merged(own, settings), first, new_vocabulary=new_vocabulary, source=where)
    if isinstance(start, Stage):
        return Stage(number, name, config, init=start.name, new_vocabulary=new_vocabulary)
    return Stage(number, name, config, checkpoint=start, new_vocabulary=new_vocabulary)


def _start(where: str, table: Mapping[str, Any], known: Mapping[str, Stage]) -> Stage | Path | None:
    """Returns what a stage starts from: the stage or checkpoint that `init` names, or the previous stage."""
    if "init" not in table:
        return list(known.values())[-1] if known else None
    init = table["init"]
    if isinstance(init, str) and init in known:
        return known[init]
    if not isinstance(init, str) or not (init == PACKAGED or Path(init).exists()):
        raise CaptionerError(
            f"In {where}: init is {init!r}; name an earlier stage ({_names(known)}), a checkpoint that exists, or "
            f"{PACKAGED}."
        )
    return Path(init)


def _average(where: str, table: Mapping[str, Any], known: Mapping[str, Stage]) -> dict[str, float]:
    """Returns the checked weights of an average."""
    if more := sorted(set(table) - {"name", "average", "search"}):
        raise CaptionerError(f"In {where}: an average has no settings but search; leave out {more[0]!r}.")
    shares = table["average"]
    if not isinstance(shares, dict) or len(shares) < 2:
        raise CaptionerError(f"In {where}: average needs at least two stages, such as {{ first = 1, second = 1 }}.")
    for name, share in shares.items():
        if name not in known:
            raise CaptionerError(f"In {where}: average names {name!r}; use names of earlier stages ({_names(known)}).")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf:
            raise CaptionerError(f"In {where}: the weight of {name} is {share!r}; it must be a number above 0.")
    return {name: float(share) for name, share in shares.items()}


def _names(known: Mapping[str, Stage]) -> str:
    return ", ".join(known) or "none"
