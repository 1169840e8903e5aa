"""Writes `tests/tiny/bundle`, an ONNX bundle of an untrained model, small enough to commit.

    python tests/tiny/make_bundle.py

Its captions have no meaning, but they differ between photos and in length, and they end with END. Tests of the runtime
use it, so they do not need PyTorch.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from capexport import onnx_export
from capexport.graphs import describe
from capexport.verify import verify
from caprun.bundle.manifest import Manifest, ModelSpec, Precision
from caprun.bundle.reading import read_bundle
from caprun.bundle.vocabulary import Joining, Special, Vocabulary
from caprun.bundle.writing import replaced_bundle, write_manifest
from caprun.inference.session import OnnxBackend
from caprun.photos.preprocessing import ImageSpec
from caprun.search.options import SearchOptions
from captioner.backends.pytorch import ModelBackend
from captioner.config import ModelConfig
from captioner.models.caption_model import CaptionModel
from captioner.models.encoder import Encoder

SEED = 10
SIZE = 32
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
WORDS = "a the dog cat bird child man woman ball runs sleeps jumps on in by grass sand snow , and"
VOCABULARY = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *WORDS.split()), Joining(no_space_before=(",",)))
SPECIAL = Special(pad=0, start=1, end=2, unk=3)
GAINS = {
    "encoder.features.0.weight": 3.0,
    "project.0.weight": 4.0,
    "initial_hidden.weight": 7.0,
    "initial_cell.weight": 7.0,
    "decoder.embedding.weight": 3.0,
    "decoder.attention.key.weight": 6.0,
    "decoder.attention.query.weight": 6.0,
    "decoder.attention.score.weight": 6.0,
    "decoder.context_gates.weight": 7.0,
    "decoder.output_context.weight": 7.0,
    "decoder.output.weight": 4.0,
}


def build_model() -> CaptionModel:
    """Builds a model of 32x32 photos with 4x4 regions; its weights are large enough for captions to differ."""
    torch.manual_seed(SEED)
    features = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU())
    encoder = Encoder("tiny", features, (SIZE, SIZE), MEAN, STD)
    config = ModelConfig("tiny", "none", projection=8, embedding=8, units=12, attention=6, tie_words=False)
    model = CaptionModel(encoder, config, len(VOCABULARY), SPECIAL).requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.mul_(GAINS.get(name, 2.5))
    model.decoder.output.bias[SPECIAL.end] = 1.5  # so that captions end
    return model.eval()


def write_bundle(target: Path) -> None:
    """Exports the model as `captioner export` does, without a checkpoint."""
    model = build_model()
    spec = ModelSpec(
        name="tiny",
        image=ImageSpec(SIZE, SIZE, "squash", "bilinear", MEAN, STD),
        special=SPECIAL,
        search=SearchOptions(beam_size=3, max_length=12, length_penalty=1.0),
        attention_grid=model.encoder.grid,
    )
    with replaced_bundle(target) as directory:
        encoder, decoder = onnx_export.write(model, directory)
        manifest = Manifest(
            **{name: getattr(spec, name) for name in spec.__dataclass_fields__},
            format="onnx",
            licence="MIT",
            files={},
            precisions={"fp32": Precision(encoder, decoder)},
            graphs=describe(model),
        )
        write_manifest(directory, manifest, VOCABULARY, "")
        written = OnnxBackend(read_bundle(directory), "cpu")
        parity = verify(ModelBackend(model), written, spec, VOCABULARY, _photos(16))
        manifest = replace(manifest, parity=asdict(parity))
        write_manifest(directory, manifest, VOCABULARY, "# tiny\n\nFor tests; see `make_bundle.py`.\n")


def _photos(count: int) -> npt.NDArray[np.uint8]:
    """Draws photos, uint8 (count, 32, 32, 3), with a plain colour in each of the 4x4 regions."""
    patches = np.random.default_rng(SEED).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return patches.repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)


if __name__ == "__main__":
    write_bundle(Path(__file__).parent / "bundle")
