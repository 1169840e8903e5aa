"""Exports of every decoder give PyTorch's captions and run in the same runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from capexport import verify as verification
from capexport.export import ExportRequest, export
from capexport.verify import Parity, ParityError, verify
from caprun.bundle.reading import Bundle, read_bundle
from caprun.cli import main
from caprun.engine import Captioner
from caprun.inference.session import OnnxBackend
from caprun.search.steps import StepOutput
from captioner.backends.pytorch import ModelBackend, model_spec
from captioner.backends.torchscript import ScriptBackend
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import Checkpoint, build_model, save_checkpoint
from tests.capexport.conftest import draw_photos, make_checkpoint

# each option is tested with only some decoders, because an export takes seconds
VARIANTS: dict[str, dict[str, Any]] = {
    "rnetvi": {"embedding": 24, "layers": 2, "tie_words": True},
    "rnetvh": {"initial_state": "projection", "projection": 32},
    "rnetvhc": {"layers": 2},
    "soft-attention": {"gate": False, "initial_state": "projection", "projection": 32, "regions": 5, "fine_tune": 3},
    "hard-attention": {"layers": 2, "tie_words": True, "regions": 3},
}
_SLOW = {"rnetvh", "rnetvhc", "hard-attention"}
ATTENDS = ("soft-attention", "hard-attention")
PHOTOS = draw_photos(20, seed=1)


@dataclass(frozen=True)
class Exported:
    """A decoder in PyTorch and in a bundle."""

    decoder: str
    checkpoint: Checkpoint
    model: CaptionModel
    bundle: Bundle

    @property
    def backend(self) -> OnnxBackend | ScriptBackend:
        if self.bundle.manifest.format == "onnx":
            return OnnxBackend(self.bundle, "cpu", threads=1)
        return ScriptBackend(self.bundle)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW)) for name in VARIANTS]
)
def decoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def exported(request: pytest.FixtureRequest, decoder: str, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp(decoder)
    checkpoint = make_checkpoint(decoder=decoder, **VARIANTS[decoder])
    save_checkpoint(directory / "best.pt", checkpoint)
    export(ExportRequest(directory / "best.pt", request.param, directory / "bundle"), lambda _: None)
    return Exported(decoder, checkpoint, build_model(checkpoint), read_bundle(directory / "bundle"))


def test_the_photo_features_for_the_confidence_equal_pytorchs(exported: Exported) -> None:
    """The features are the hidden states of all layers before the first step, followed by the cell states."""
    found, expected = exported.backend.encode(PHOTOS).photo, ModelBackend(exported.model).encode(PHOTOS).photo
    encoded = exported.model.encode(torch.from_numpy(PHOTOS))
    states = [state.flatten(1).detach().numpy() for state in (encoded.hidden, encoded.cell)]
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape == (len(PHOTOS), 2 * states[0].shape[1])
    np.testing.assert_array_equal(expected, np.concatenate(states, axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_captions_of_other_photos_equal_pytorchs(exported: Exported) -> None:
    spec = model_spec(exported.checkpoint, exported.model, "x")
    hard = exported.decoder == "hard-attention"
    parity = verify(
        ModelBackend(exported.model), exported.backend, spec, exported.checkpoint.vocabulary, PHOTOS, one_region=hard
    )
    assert parity.captions == 3 * len(PHOTOS)
    captioner = Captioner(exported.bundle.manifest, exported.bundle.vocabulary, exported.backend)
    captions = {caption.text for caption in captioner.caption_arrays(PHOTOS)}
    assert len(captions) > 1, "captions must differ between photos for this test to mean anything"


def test_a_photos_caption_does_not_depend_on_its_batch(exported: Exported) -> None:
    captioner = Captioner(exported.bundle.manifest, exported.bundle.vocabulary, exported.backend)
    together = captioner.caption_arrays(PHOTOS)
    alone = [captioner.caption_arrays(photo[None])[0] for photo in PHOTOS]
    assert [caption.text for caption in together] == [caption.text for caption in alone]


def test_the_manifest_lists_the_inputs_and_outputs_of_the_graphs(exported: Exported) -> None:
    graphs, attends = exported.bundle.manifest.graphs, exported.decoder in ATTENDS
    context = ["regions", "keys"] if attends else []
    assert [tensor.name for tensor in graphs.encoder.outputs] == ["hidden", "cell", *context]
    row = ["row"] if attends else []
    inputs = [*row, "parent", "token", "hidden", "cell", *context, "k"]
    assert [tensor.name for tensor in graphs.decoder.inputs] == inputs
    alpha = ["alpha"] if attends else []
    outputs = ["log_prob", "candidate", "next_hidden", "next_cell", *alpha]
    assert [tensor.name for tensor in graphs.decoder.outputs] == outputs
    found = exported.backend.encode(PHOTOS[:3]).tensors()
    assert {name: value.shape[1:] for name, value in found.items()} == {
        tensor.name: tensor.shape[1:] for tensor in graphs.encoder.outputs
    }


def test_attention_is_a_map_of_the_regions_or_none(exported: Exported) -> None:
    side = VARIANTS[exported.decoder].get("regions")
    grid = (side, side) if exported.decoder in ATTENDS else None
    assert exported.bundle.manifest.attention_grid == grid
    captioner = Captioner(exported.bundle.manifest, exported.bundle.vocabulary, exported.backend)
    (caption,) = captioner.caption_arrays(PHOTOS[:1], alpha=True)
    assert caption.words
    for word in caption.words:
        assert (None if word.alpha is None else word.alpha.shape) == grid
        assert word.alpha is None or word.alpha.sum() == pytest.approx(1, abs=1e-5)


def test_the_command_captions_and_refuses_to_draw_missing_attention(exported: Exported, tmp_path: Path) -> None:
    if exported.bundle.manifest.format != "onnx":
        pytest.skip("the runtime runs ONNX")
    Image.fromarray(PHOTOS[0]).save(tmp_path / "photo.png")
    arguments = [str(tmp_path / "photo.png"), "--model", str(exported.bundle.path), "--device", "cpu"]
    plain = CliRunner().invoke(main, arguments)
    assert plain.exit_code == 0
    assert plain.stdout.strip()
    drawn = CliRunner().invoke(main, [*arguments, "--attention", str(tmp_path / "map.png")])
    if exported.decoder in ATTENDS:
        assert drawn.exit_code == 0
        assert (tmp_path / "map.png").exists()
    else:
        message = f"Error: The model {exported.bundle.manifest.name} has no attention to draw; leave out --attention.\n"
        assert (drawn.exit_code, drawn.stderr) == (2, message)


# --- Hard attention where rounding decides the region


def hard_models(shift: float) -> tuple[Checkpoint, CaptionModel, CaptionModel]:
    """Returns a checkpoint, a model that finds all regions equally likely, and one with score weights of `shift`."""
    checkpoint = make_checkpoint(decoder="hard-attention", regions=2)
    models = [build_model(checkpoint) for _ in range(2)]
    for model, score in zip(models, (0.0, shift), strict=True):
        assert model.decoder.attention is not None
        torch.nn.init.constant_(model.decoder.attention.score.weight, score)
    return checkpoint, models[0], models[1]


def compare(shift: float = 1e-7, *, swap: bool = False, **options: Any) -> Parity:
    checkpoint, *models = hard_models(shift)
    expected, found = reversed(models) if swap else models
    spec = model_spec(checkpoint, expected, "x")
    return verify(ModelBackend(expected), ModelBackend(found), spec, checkpoint.vocabulary, PHOTOS, **options)


def test_equally_likely_regions_are_counted_and_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "UNDECIDED_SHARE", 1.0)
    parity = compare(one_region=True)
    assert parity.undecided_steps > 100
    assert parity.near_ties > 10
    assert parity.log_prob < 1e-4  # of the compared steps


def test_a_model_with_mostly_undecided_steps_is_refused() -> None:
    with pytest.raises(ParityError, match=r"In \d+ of \d+ steps PyTorch finds two regions equally likely"):
        compare(one_region=True)


def test_every_step_of_soft_attention_is_compared() -> None:
    with pytest.raises(ParityError, match="differ from PyTorch by"):
        compare()


def test_regions_that_are_not_equally_likely_are_compared() -> None:
    with pytest.raises(ParityError, match="differ from PyTorch by"):
        compare(0.1, swap=True, one_region=True)


def test_steps_tied_between_identical_regions_are_not_undecided() -> None:
    alpha = np.array([[[0.4, 0.4, 0.2], [0.4, 0.2, 0.4], [0.8, 0.1, 0.1]]], np.float32)
    output = StepOutput(np.zeros((1, 3, 1), np.float32), np.zeros((1, 3, 1), np.int64), alpha)
    regions = np.array([[[1.0, 2.0], [1.0, 2.0], [5.0, 2.0]]], np.float32)
    assert verification._undecided(output, regions).tolist() == [[False, True, False]]
