"""Tests that packages with encoders of their own inherit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from capexport import onnx_export, torchscript_export
from caprun.inference.devices import onnxruntime
from captioner.config import Config, DataConfig, ModelConfig
from captioner.models.caption_model import build_caption_model
from captioner.text.tokenizer import SPECIAL

_PIECES = 9


class EncoderParity:
    """Checks that exported graphs of an encoder with random weights compute what PyTorch computes.

    Attributes:
        name: the name for `--encoder`.
        image_size: side of the photos in pixels.
        batches: numbers of photos.
    """

    name: str
    image_size = 224
    batches = (1, 2, 5)

    def test_exports_compute_what_pytorch_computes(self, tmp_path: Path) -> None:
        """Compares outputs of ONNX and TorchScript with those of PyTorch, up to rounding."""
        torch.manual_seed(0)
        settings = ModelConfig(encoder=self.name, projection=16, embedding=8, units=16, attention=8)
        config = Config(data=DataConfig(image_size=self.image_size), model=settings)
        model = build_caption_model(config, _PIECES, SPECIAL).eval()
        session = onnxruntime().InferenceSession(str(tmp_path / onnx_export.write(model, tmp_path)[0]))
        script: Any = torch.jit.load(str(tmp_path / torchscript_export.write(model, tmp_path)[0]))  # type: ignore[no-untyped-call]
        rng = np.random.default_rng(0)
        for batch in self.batches:
            images: npt.NDArray[np.uint8] = rng.integers(256, size=(batch, *model.encoder.size, 3), dtype=np.uint8)
            with torch.inference_mode():
                expected = [tensor.numpy() for tensor in model.encode(torch.from_numpy(images)) if tensor is not None]
                traced = [tensor.numpy() for tensor in script(torch.from_numpy(images))]
            for found in (session.run(None, {"image": images}), traced):
                for one, other in zip(found, expected, strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
