"""The `model` section: encoder, decoder and their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from caprun.errors import UsageError
from captioner.config.ranges import Range, Share, Size, check_ranges

Decoder = Literal["soft-attention", "hard-attention", "rnetvi", "rnetvh", "rnetvhc", "rnetvhcattention"]
"""How the photo enters the LSTM.

- `rnetvi`: the projected photo is the first input (Vinyals et al., 2015).
- `rnetvh`: the projected photo is the initial hidden state; the initial cell state is zero.
- `rnetvhc`: the projected photo is the initial hidden and cell state.
- `soft-attention`, which CaRNet calls `rnetvhcattention`: as rnetvhc; in addition, every step reads a weighted mean of
  all regions (Xu et al., 2015, section 4.2).
- `hard-attention`: every step reads one sampled region (section 4.1).
"""

_PROJECTION = 512


@dataclass(frozen=True)
class ModelConfig:
    """Encoder, decoder and their sizes."""

    encoder: str = "efficientnet_lite2"
    """Image network: efficientnet_lite2, a CNN of torchvision, or timm/NAME."""
    encoder_weights: str = "default"
    """Initial weights of the encoder: `default` (pretrained), `none`, or a file (safetensors or a state dict)."""
    regions: Annotated[int, Range(0, 256)] = 0
    """Regions per side after pooling the encoder's grid; 0: no pooling, 1: one vector for the photo."""
    fine_tune: Annotated[int, Range(-1, 1000)] = -1
    """Index of the first child module (of a transformer, block) of the encoder that is trained (5 is a ResNet's second
    stage); -1: none. The output of the frozen part is cached if it is no larger than the photo (four photos)."""
    decoder: Decoder = "soft-attention"
    """How the photo enters the LSTM: see `Decoder`."""
    gate: bool = True
    """Uses attention's gate beta (Xu et al., 2015, section 4.2.1)."""
    initial_state: Literal["learned", "projection"] = "learned"
    """Initial LSTM state: `learned` is a layer each for hidden and cell, `projection` is the mean projected region
    itself (CaRNet), which needs `projection` equal to `units`."""
    projection: Annotated[int, Range(0, 2**16)] = 0
    """Length of a projected region; 0: 512, or with rnetvi the value of `embedding`."""
    embedding: Size = 256
    """Length of a word vector."""
    units: Size = 512
    """Length of the LSTM's hidden and cell vectors."""
    attention: Size = 256
    """Length of the space in which attention compares regions with the hidden vector."""
    tie_words: bool = True
    """Shares one matrix between input and output words (Press and Wolf, 2017)."""
    layers: Annotated[int, Range(1, 100)] = 1
    """Number of stacked LSTM layers."""
    dropout: Share = 0.5
    """Dropout rate of regions, embedded words and the output layer."""
    word_dropout: Share = 0.0
    """Share of input words replaced by the unknown word in training."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.projection == 0:
            object.__setattr__(self, "projection", self.embedding if self.decoder == "rnetvi" else _PROJECTION)
        if self.decoder == "rnetvhcattention":
            object.__setattr__(self, "decoder", "soft-attention")
        if self.decoder == "rnetvi" and self.projection != self.embedding:
            raise UsageError(
                f"With rnetvi the photo is read like a word: model.projection ({self.projection}) and model.embedding "
                f"({self.embedding}) must be equal; leave out model.projection."
            )
        if self.decoder != "rnetvi" and self.initial_state == "projection" and self.projection != self.units:
            raise UsageError(
                f"With initial_state=projection the projection is the LSTM's state: projection ({self.projection}) "
                f"and units ({self.units}) must be equal."
            )

    @property
    def attends(self) -> bool:
        """Whether the decoder attends to regions."""
        return self.decoder in ("soft-attention", "hard-attention")
