"""Hugging Face's captioners, built from their configurations with random weights, which do not change their speed.

Nothing is downloaded. Each photo goes through the image processor of its model, and `generate` makes a given number of
tokens. Decoding the tokens into text is left out: it needs a vocabulary and takes almost no time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image


def vit_gpt2() -> Callable[[str, int, int], object]:
    """Builds ViT-base at 224 x 224 pixels with GPT-2, as in `nlpconnect/vit-gpt2-image-captioning`."""
    transformers = _transformers()
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(), transformers.GPT2Config()
    )
    config.decoder_start_token_id = config.pad_token_id = config.decoder.eos_token_id
    model = transformers.VisionEncoderDecoderModel(config)
    return _captioner(model, transformers.ViTImageProcessor())


def blip_base() -> Callable[[str, int, int], object]:
    """Builds ViT-base at 384 x 384 pixels with a BERT-like decoder, as in `Salesforce/blip-image-captioning-base`."""
    transformers = _transformers()
    model = transformers.BlipForConditionalGeneration(transformers.BlipConfig())
    return _captioner(model, transformers.BlipImageProcessor())


def _transformers() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import transformers
    except ImportError:
        raise SystemExit('Error: transformers is not installed; run pip install ".[bench]".') from None
    transformers.logging.set_verbosity_error()
    return transformers


def _captioner(model: Any, processor: Any) -> Callable[[str, int, int], object]:
    model.eval()

    @torch.inference_mode()
    def caption(path: str, beams: int, length: int) -> object:
        photo = Image.open(path).convert("RGB")
        pixels = processor(images=photo, return_tensors="pt").pixel_values
        return model.generate(
            pixel_values=pixels, num_beams=beams, do_sample=False, min_new_tokens=length, max_new_tokens=length
        )

    return caption
