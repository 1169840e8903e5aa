"""Trains the stages of a recipe, resuming where a run stopped, and writes the checkpoint to export."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from caprun.bundle.vocabulary import Vocabulary
from caprun.errors import UsageError
from caprun.search.options import SearchOptions
from captioner.backends.pytorch import torch_device
from captioner.datasets import Dataset
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import score_line
from captioner.models.caption_model import build_caption_model
from captioner.models.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from captioner.recipes.folder import RunFolder, best_of
from captioner.recipes.recipe import Recipe, Stage
from captioner.text.tokenizer import SPECIAL
from captioner.training.averaging import average, scored
from captioner.training.optimiser import Optimiser
from captioner.training.processes import Processes
from captioner.training.start import Start, initial_tokenizer
from captioner.training.train import Job, check_selection, train
from captioner.training.validation import check_search

MODEL = "model.pt"
"""The best checkpoint of the last stage, with the provenance of the whole recipe."""
_PIECES = 8  # vocabulary size of the models that are built to check a recipe

Say = Callable[[str], None]


@dataclass(frozen=True)
class RecipeRun:
    """The arguments of `train_stages`."""

    recipe: Recipe
    dataset: Dataset
    cache: Path
    command: str
    device: str = "auto"
    allow_missing: bool = False


def check_stages(recipe: Recipe, device: str, dataset: Dataset) -> None:
    """Checks, before hours of training, that the model of every stage can be built, trained on the device and searched.

    Raises:
        CaptionerError: a stage cannot be trained.
    """
    searches = [stage.config.search for stage in recipe.stages]
    words = None
    if any(one.repeatable or one.suppress or one.bad_endings or one.neutral for one in searches):
        words = _words(recipe.stages[0], dataset)
    for stage in recipe.stages:
        try:
            if words is not None:
                check_search(stage.config, SPECIAL.end, words.vocabulary)
                _check_repeatable(stage.config.search, words)
            if not stage.average:
                check_selection(stage.config.train.select_by, dataset.split("dev"))
            model = build_caption_model(stage.config, _PIECES, SPECIAL)
            Optimiser(model.to(torch_device(device)), stage.config.train, total_steps=1)
        except (CaptionerError, UsageError) as error:
            raise CaptionerError(
                f"Stage {stage.number} of the recipe {recipe.name} ({stage.name}) cannot be trained: {error}"
            ) from None


class _Words(NamedTuple):
    vocabulary: Vocabulary
    whole: bool
    """The tokenizer has no pieces that are only a part of a word."""
    commonest: str
    """The commonest piece with a letter in the training captions; empty if there is none."""


def _words(first: Stage, dataset: Dataset) -> _Words:
    captions = [caption for example in dataset.split("train") for caption in example.references]
    start = None
    if first.checkpoint is not None:
        start = Start(load_checkpoint(first.checkpoint), first.checkpoint, first.new_vocabulary)
    tokenizer = initial_tokenizer(first.config, start, captions)
    counts, texts = Counter(chain.from_iterable(map(tokenizer.ids, captions))), tokenizer.vocabulary.texts
    words = (texts[piece] for piece, _ in counts.most_common() if piece != SPECIAL.unk)
    commonest = next((word for word in words if any(map(str.isalpha, word))), "")
    return _Words(tokenizer.vocabulary, tokenizer.words is not None, commonest)


def _check_repeatable(search: SearchOptions, words: _Words) -> None:
    """Checks that the pieces are words, and in the language of `repeatable`: the default recipe's is English."""
    if not search.no_repeat_word or not search.repeatable:
        return
    off = "turn the ban off with --set search.no_repeat_word=0."
    if not words.whole:
        raise CaptionerError(f"search.no_repeat_word forbids repeating parts of words with this tokenizer; {off}")
    if not {words.commonest, words.commonest.lower()} & {"", *search.repeatable}:
        raise CaptionerError(
            f"search.no_repeat_word forbids repeating {words.commonest!r}, the commonest word of the captions; list "
            f"the words that may be repeated in search.repeatable, or {off}"
        )


def train_stages(request: RecipeRun, folder: RunFolder, say: Say) -> Path:
    """Trains the stages that are not done, and writes the checkpoint to export to the run folder.

    Raises:
        CaptionerError: see `captioner.training.train.train`.
        KeyboardInterrupt: the training was interrupted; its last checkpoint is kept.
    """
    stages = request.recipe.stages
    best: dict[str, Path] = {}
    for stage in stages:
        title = f"stage {stage.number} of {len(stages)}, {stage.name}"
        if stage.folder in folder.state.done:
            say(f"{title}: already done")
        else:
            say(f"{title}: {folder.path / stage.folder}")
            work = _average_stage if stage.average else _train_stage
            work(request, stage, best.get(stage.init), folder, say)
            folder.write(done=(*folder.state.done, stage.folder))
        best[stage.name] = best_of(folder.path, stage)
    model = folder.path / MODEL
    made = load_checkpoint(best[stages[-1].name])
    own = {name: value for name, value in made.provenance.items() if name != "stages"}
    provenance = {**own, **_provenance(request, folder)}
    save_checkpoint(model, replace(made, provenance=provenance))
    return model


def _train_stage(request: RecipeRun, stage: Stage, before: Path | None, folder: RunFolder, say: Say) -> None:
    output = folder.path / stage.folder
    last = output / LAST
    resumed = load_checkpoint(last) if last.exists() else None
    if resumed is not None and (
        resumed.training is None or resumed.config != stage.config.with_tokenizer(resumed.config.data.tokenizer)
    ):
        raise CaptionerError(f"{last} belongs to another training run; name another folder with --run.")
    processes = Processes(device=torch_device(request.device))
    init = (before or stage.checkpoint) if resumed is None else None  # a resumed run has its own weights
    job = Job(
        request.dataset,
        stage.config,
        output,
        request.cache,
        request.command,
        processes,
        allow_missing=request.allow_missing,
        resumed=resumed,
        init=init,
        new_vocabulary=stage.new_vocabulary,
    )
    train(job, _numbered(request, stage, say))


def _average_stage(request: RecipeRun, stage: Stage, _: Path | None, folder: RunFolder, say: Say) -> None:
    files = [best_of(folder.path, one) for one in request.recipe.stages if one.name in stage.average]
    shares = [stage.average[one.name] for one in request.recipe.stages if one.name in stage.average]
    tell = _numbered(request, stage, say)
    made = average(files, shares, request.command)
    made = replace(made, config=stage.config.with_tokenizer(made.config.data.tokenizer))
    device, dev = torch_device(request.device), request.dataset.split("dev")
    made = scored(made, dev, device, tell, allow_missing=request.allow_missing)
    save_checkpoint(folder.path / stage.folder / BEST, made)
    tell(score_line(made.metrics))


def _numbered(request: RecipeRun, stage: Stage, say: Say) -> Say:
    return lambda line: say(f"[{stage.number}/{len(request.recipe.stages)}] {line}")


def _provenance(request: RecipeRun, folder: RunFolder) -> dict[str, Any]:
    """Returns the provenance of all stages for the model card; the checkpoint of a stage has only its own."""
    recipe = request.recipe
    stages = []
    for stage in recipe.stages:
        best = load_checkpoint(best_of(folder.path, stage))
        last = folder.path / stage.folder / LAST
        timed = load_checkpoint(last) if last.exists() else best  # the best epoch is not always the last
        seconds = 0 if stage.average else timed.provenance["train_seconds"]
        stages.append({"name": stage.name, "seconds": seconds, **best.scores})
    return {
        "train_seconds": sum(stage["seconds"] for stage in stages),
        "recipe": {"name": recipe.name, "sha256": recipe.sha256, "cores": os.cpu_count(), "stages": stages},
    }
