"""A recipe makes a bundle from photos, resumes after a kill, and refuses bad input before training."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result

from caprun.bundle.reading import read_bundle
from captioner.config import SELF_CRITICAL
from captioner.errors import CaptionerError
from captioner.models.checkpoint import BEST, LAST, load_checkpoint
from captioner.recipes.recipe import find_recipe, read_recipe
from tests.captioner.recipes import dying
from tests.captioner.trees import differing

STAGES = ("1-first", "2-tuned", "3-own", "4-mean")


# --- Results


def test_a_stage_starts_from_the_best_of_the_previous_or_the_named_stage(made):
    checkpoints = [load_checkpoint(made / "run" / stage / BEST) for stage in STAGES[:3]]
    for before, after in zip((STAGES[0], STAGES[0]), checkpoints[1:], strict=True):
        sha256 = digest_of(made / "run" / before / BEST)
        assert after.provenance["init"]["checkpoint_sha256"] == sha256
    assert [c.config.train.stage for c in checkpoints] == ["cross-entropy", "cross-entropy", "self-critical"]
    assert [c.config.model.fine_tune for c in checkpoints] == [-1, 2, -1]
    assert checkpoints[2].config.train.lr == SELF_CRITICAL.lr


def test_an_average_has_the_weights_of_the_stages_it_names(made):
    tuned, own, mean = (load_checkpoint(made / "run" / stage / BEST).model for stage in STAGES[1:])
    name = "decoder.embedding.weight"
    assert not torch.equal(tuned[name], own[name])
    torch.testing.assert_close(mean[name], 0.25 * tuned[name] + 0.75 * own[name])
    own, mean = (load_checkpoint(made / "run" / stage / BEST).config for stage in STAGES[2:])
    assert (mean.search.no_repeat_word, mean.search.repeatable) == (9, ("a",))
    assert replace(mean, search=own.search) == own  # the rest from the previous stage, whichever it names first


def digest_of(file: Path) -> str:
    from caprun.bundle.writing import describe_file

    return describe_file(file).sha256


def test_the_bundle_holds_the_last_stages_best_and_the_recipes_provenance(made, tiny):
    manifest = read_bundle(made / "bundle").manifest
    best = load_checkpoint(made / "run" / STAGES[-1] / BEST)
    assert manifest.metrics == best.metrics
    assert (manifest.name, manifest.licence) == ("bundle", "ours")
    training = manifest.provenance["training"]
    recipe = training["recipe"]
    assert (recipe["name"], recipe["sha256"]) == ("tiny", read_recipe(tiny).sha256)
    assert [stage["name"] for stage in recipe["stages"]] == ["first", "tuned", "own", "mean"]
    assert training["train_seconds"] == sum(stage["seconds"] for stage in recipe["stages"])
    assert recipe["cores"] >= 1
    assert differing(dict(load_checkpoint(made / "run" / "model.pt").model), dict(best.model)) == []


@pytest.mark.slow
def test_a_recipe_killed_anywhere_resumes_to_the_same_bits(made, tiny, small, tmp_path):
    command = ["recipe", str(tiny), *small, "--output", str(tmp_path / "bundle"), "--run", str(tmp_path / "run")]
    first, tuned, own, mean = STAGES
    for moment in (
        (LAST, first, -1),  # nothing is saved
        (LAST, first, 3),  # in the middle of an epoch
        ("recipe.json", first, -1),  # trained, but not recorded
        ("recipe.json", first, 1),  # recorded, but the next stage has not started
        (LAST, tuned, -2),
        (LAST, own, 1),
        ("recipe.json", own, 1),
        ("recipe.json", mean, -1),
        ("bundle", "export", 1),  # written, but not recorded
    ):
        assert dying.run(command, moment) == -signal.SIGKILL, moment
    assert dying.run(command, None) == 0
    for file in ("model.pt", *(f"{stage}/{name}" for stage in STAGES[:3] for name in (BEST, LAST))):
        whole, killed = (load_checkpoint(folder / "run" / file) for folder in (made, tmp_path))
        assert differing(dict(whole.model), dict(killed.model)) == [], file
    whole, killed = (dict(read_bundle(folder / "bundle").manifest.metrics) for folder in (made, tmp_path))
    assert differing(whole, killed) == []
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["done"] == list(STAGES)


def test_a_finished_run_is_not_repeated(again):
    before = Path("bundle/model.json").read_bytes()
    result = again()
    assert result.exit_code == 0, result.output
    assert result.stdout == "caprun --model bundle PHOTO\n"
    # it describes the other files of the bundle, which are therefore the same
    assert "already done" in result.stderr
    assert Path("bundle/model.json").read_bytes() == before


def test_export_options_can_change_without_training_again(again):
    result = again("--licence", "theirs", "--name", "other")
    assert result.exit_code == 0, result.output
    assert "stage 4 of 4, mean: already done" in result.stderr
    manifest = read_bundle(Path("bundle")).manifest
    assert (manifest.licence, manifest.name) == ("theirs", "other")


def test_an_incomplete_bundle_is_exported_again(again):
    (Path("bundle") / "decoder_model.onnx").unlink()
    assert again().exit_code == 0
    read_bundle(Path("bundle"))


def test_a_failed_export_reports_that_no_training_is_lost(again, monkeypatch):
    from captioner.errors import CaptionerError

    def refuse(*_: object, **__: object) -> None:
        raise CaptionerError("int8 is slow.")

    monkeypatch.setattr("captioner.commands.recipe.write_bundle", refuse)
    result = again("--precision", "int8")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: int8 is slow. All stages are trained; the same command repeats only the export, and adding --precision "
        "fp32 skips int8."
    )


def test_an_interrupted_recipe_reports_that_the_same_command_continues(run, tiny, small, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("captioner.recipes.stages.train", interrupt)
    result = run(tiny, *small, "--output", "bundle")
    assert result.exit_code == 1
    assert "stage 1 of 4, first: runs/bundle/1-first" in result.stderr.splitlines()
    assert "Interrupted; the same command continues from here: `captioner" in result.stderr.splitlines()[-1]


def test_the_first_stage_can_keep_the_encoder_of_a_checkpoint(made, tmp_path):
    first = made / "run" / STAGES[1]
    file = tmp_path / "own.toml"
    file.write_text(f"[[stage]]\nname = 'a'\ninit = {str(first)!r}\nnew_vocabulary = true\ndata.tokenizer = 'bpe'\n")
    written = read_recipe(file)
    stage = written.stages[0]
    assert (stage.checkpoint, stage.new_vocabulary, stage.init) == (first, True, "")
    assert (stage.config.data.image_size, stage.config.data.tokenizer) == (48, "bpe")
    assert written.trained()["stage 1 init"] == digest_of(first / BEST)  # wherever the checkpoint is
    file.write_text("[[stage]]\nname = 'a'\ndata.tokenizer = 'bpe'\n")
    assert read_recipe(file, first={"init": str(first), "new_vocabulary": True}).trained() == written.trained()


def test_options_start_the_first_stage_from_a_checkpoint(run, made, small, tmp_path, monkeypatch):
    monkeypatch.setattr("captioner.commands.recipe.write_bundle", lambda *_, **__: None)
    file = tmp_path / "own.toml"
    file.write_text('[[stage]]\nname = "a"\ntrain.epochs = 1\ndata.min_count = 1\n')
    start = ("--init", made / "run" / STAGES[1], "--new-vocabulary")
    result = run(file, *small, "--output", "bundle", *start)
    assert result.exit_code == 0, result.output
    best = load_checkpoint(Path("runs/bundle/1-a"))
    assert best.provenance["init"]["checkpoint_sha256"] == digest_of(made / "run" / STAGES[1] / BEST)
    assert best.provenance["init"]["kept"] == "encoder"


@pytest.mark.parametrize(
    ("setting", "values"),
    [({"self_critical": {"samples": 8}}, [5, 5, 8]), ({"train": {"label_smoothing": 0.05}}, [0.05, 0.05, 0.0])],
    ids=str,
)
def test_a_setting_of_one_kind_of_stage_applies_to_the_stages_of_that_kind(tiny, setting, values):
    ((section, given),) = setting.items()
    (key,) = given
    trainings = [stage.config for stage in read_recipe(tiny, setting).stages if not stage.average]
    assert [getattr(getattr(config, section), key) for config in trainings] == values


def test_the_default_recipe_bans_repeats_in_its_last_stage_unless_told_otherwise():
    banned = [stage.config.search.no_repeat_word for stage in read_recipe(find_recipe(None)).stages]
    assert banned == [0, 0, 0, 0, 0, 22]
    told = read_recipe(find_recipe(None), {"search": {"no_repeat_word": 0}})
    assert told.stages[-1].config.search.no_repeat_word == 0


def test_a_setting_that_no_stage_uses_is_refused(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[[stage]]\nname = 'a'\n")
    with pytest.raises(CaptionerError, match=r"^No stage of the recipe \S+ uses --set self_critical\.samples; leave"):
        read_recipe(file, {"self_critical": {"samples": 8}})


# --- Refusals


def test_a_different_recipe_in_the_same_run_is_refused_naming_what_differs(again, run, tiny, small, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(tiny.read_text().replace("fine_tune = 2", "fine_tune = 3"))
    result = run(other, *small, "--output", "bundle", "--run", "run")
    assert_one_line_at_the_end(
        result, "run belongs to another run: stage 2 model.fine_tune 2 (now 3); use the same again"
    )
    changes = (
        "stage 1 train.seed 0 (now 5), stage 1 search.beam_size 3 (now 2), stage 2 train.seed 0 (now 5) and 4 more"
    )
    assert_one_line_at_the_end(
        again("--seed", 5, "--set", "search.beam_size=2"), f"run belongs to another run: {changes}"
    )


def assert_one_line_at_the_end(result: Result, *words: str) -> None:
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    for word in words:
        assert word in line


def test_different_captions_in_the_same_run_are_refused(again, own_shapes):
    captions = own_shapes / "captions.txt"
    captions.write_text(captions.read_text().replace("A red circle", "A round circle", 1))
    assert_one_line_at_the_end(again("--data", own_shapes), "run belongs to another run: photos and captions ")


def test_the_same_photos_in_another_folder_are_accepted(again, own_shapes):
    assert again("--data", own_shapes).exit_code == 0


def test_another_output_for_the_same_run_is_refused(again):
    assert_one_line_at_the_end(again("--output", "elsewhere"), "another run: --output ", "bundle (now ", "--run")


def test_a_missing_checkpoint_of_a_finished_stage_is_reported(again):
    (Path("run") / STAGES[1] / BEST).unlink()
    assert_one_line_at_the_end(again("--licence", "x"), f"run/{STAGES[1]}/{BEST} is missing")


def test_a_folder_with_files_of_something_else_is_refused(run, tiny, small):
    Path("runs/bundle").mkdir(parents=True)
    Path("runs/bundle/last.pt").touch()
    result = run(tiny, *small, "--output", "bundle")
    assert_one_line_at_the_end(result, "runs/bundle holds last.pt, which is not part of a recipe run")


def test_two_processes_cannot_write_to_the_same_run(again):
    from filelock import FileLock

    with FileLock(Path("run") / ".lock"):
        assert_one_line_at_the_end(again(), "Another run is writing to run")


def test_a_recipe_json_with_a_damaged_part_is_reported_in_one_line(again):
    file = Path("run") / "recipe.json"
    whole = json.loads(file.read_text())
    for part in whole:
        file.write_text(json.dumps(whole | {part: {}}))
        assert_one_line_at_the_end(again(), "name another")


def test_a_run_of_another_version_is_refused(again):
    (Path("run") / "recipe.json").write_text('{"format_version": 1, "recipe": "tiny", "work": {}}')
    assert_one_line_at_the_end(again(), "run/recipe.json was written by another version of captioner; name another")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 2}', "\xff"])
def test_a_damaged_recipe_json_is_reported_in_one_line(again, content):
    (Path("run") / "recipe.json").write_text(content, encoding="latin-1")
    assert_one_line_at_the_end(again(), "run/recipe.json is damaged")


# --- Packaged recipes


@pytest.mark.parametrize("file", sorted(find_recipe(None).parent.glob("*.toml")), ids=lambda file: file.stem)
def test_a_packaged_recipe_is_valid_in_every_stage(file):
    recipe = read_recipe(find_recipe(file.stem))
    assert recipe.stages[0].config.train.stage == "cross-entropy"
    assert read_recipe(file, {"train": {"seed": 3}}).stages[-1].config.train.seed == 3


def test_show_prints_a_recipe_that_can_be_used_from_a_file(run):
    result = run("--show")
    assert result.exit_code == 0
    Path("mine.toml").write_text(result.stdout)
    assert read_recipe(Path("mine.toml")).trained() == read_recipe(find_recipe(None)).trained()
