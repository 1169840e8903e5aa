"""Base classes for the tests of packages that add encoders or decoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from capexport import onnx_export, torchscript_export
from capexport.graphs import describe, example_inputs
from caprun.inference.devices import onnxruntime
from captioner.config import Config, DataConfig, ModelConfig
from captioner.models.caption_model import CaptionModel, build_caption_model
from captioner.text.tokenizer import SPECIAL

_PIECES = 9
_SIZES: dict[str, Any] = {"projection": 16, "embedding": 8, "units": 16, "attention": 8}


class EncoderParity:
    """Checks that exported graphs of an encoder with random weights compute what PyTorch computes.

    Attributes:
        name: the name for `--encoder`.
        image_size: side of the photos in pixels.
        batches: batch sizes to test.
    """

    name: str
    image_size = 224
    batches = (1, 2, 5)

    def test_exports_compute_what_pytorch_computes(self, tmp_path: Path) -> None:
        """Compares outputs of ONNX and TorchScript with those of PyTorch, up to rounding."""
        model = _random_model(self.image_size, encoder=self.name)
        onnx, script = (write(model, tmp_path)[0] for write in (onnx_export.write, torchscript_export.write))
        names = [tensor.name for tensor in describe(model).encoder.inputs]
        rng = np.random.default_rng(0)
        for batch in self.batches:
            drawn: npt.NDArray[np.uint8] = rng.integers(256, size=(batch, *model.encoder.size, 3), dtype=np.uint8)
            images = torch.from_numpy(drawn)
            with torch.inference_mode():
                expected = model.encode(images)
            _compare(expected, tmp_path / onnx, tmp_path / script, {names[0]: images})


class DecoderParity:
    """Checks that a decoder with random weights computes the same in exported graphs, in PyTorch and in training.

    Attributes:
        name: the name for `--decoder`.
        sizes: numbers of photos and of beams to test.
    """

    name: str
    sizes = ((1, 1), (2, 3), (5, 2))

    def test_exports_compute_what_pytorch_computes(self, tmp_path: Path) -> None:
        """Compares outputs of ONNX and TorchScript with those of PyTorch, up to rounding."""
        model = self._model()
        onnx, script = (write(model, tmp_path)[1] for write in (onnx_export.write, torchscript_export.write))
        names = [tensor.name for tensor in describe(model).decoder.inputs]
        for photos, beams in self.sizes:
            (image,), given = example_inputs(model, photos, beams)
            feed = dict(zip(names, given, strict=True))
            with torch.inference_mode():
                expected = model.candidates(feed["row"], feed["parent"], feed["token"], model.encode(image), beams)
            _compare(expected, tmp_path / onnx, tmp_path / script, feed)

    def test_training_predicts_what_the_steps_of_a_search_predict(self) -> None:
        """Compares the logits of `teach`, which reads whole captions, with those of `step`."""
        model = self._model()
        (image,), _ = example_inputs(model)
        tokens = torch.tensor([[[SPECIAL.start, 5, 4, 7, SPECIAL.end]], [[SPECIAL.start, 6, 6, 4, SPECIAL.end]]])
        with torch.inference_mode():
            encoded = model.encode(image)
            taught = model.decoder.teach(encoded, tokens, SPECIAL.pad)
            hidden, cell = encoded.hidden.unsqueeze(1), encoded.cell.unsqueeze(1)
            stepped = []
            for token in tokens[:, :, :-1].unbind(2):
                logits, hidden, cell, _ = model.decoder.step(token, hidden, cell, encoded.regions, encoded.keys)
                stepped.append(logits[:, 0])
            torch.testing.assert_close(taught.logits, torch.cat(stepped), rtol=1e-4, atol=1e-5)

    def _model(self) -> CaptionModel:
        return _random_model(64, decoder=self.name, encoder="mobilenet_v3_small")


def _random_model(image_size: int, **settings: Any) -> CaptionModel:
    torch.manual_seed(0)
    config = Config(data=DataConfig(image_size=image_size), model=ModelConfig(**_SIZES, **settings))
    return build_caption_model(config, _PIECES, SPECIAL).eval()


def _compare(expected: Iterable[Tensor | None], onnx: Path, script: Path, feed: Mapping[str, Tensor]) -> None:
    """Compares the outputs of both graphs with `expected`, up to rounding; `feed` has the inputs in graph order."""
    load: Any = torch.jit.load  # untyped
    with torch.inference_mode():
        traced = [tensor.numpy() for tensor in load(str(script))(*feed.values())]
    session = onnxruntime().InferenceSession(str(onnx))
    wanted = [tensor.numpy() for tensor in expected if tensor is not None]
    for found in (session.run(None, {name: tensor.numpy() for name, tensor in feed.items()}), traced):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
