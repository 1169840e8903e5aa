"""The `model` section: encoder, decoder and their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Annotated, Literal

from caprun.errors import UsageError
from captioner.config.ranges import Range, Share, Size, check_ranges

DECODERS = ("soft-attention", "hard-attention", "rnetvi", "rnetvh", "rnetvhc", "rnetvhcattention")
"""Ways in which the photo enters the LSTM.

- `rnetvi`: the projected photo is the first input (Vinyals et al., 2015).
- `rnetvh`: the projected photo is the initial hidden state; the initial cell state is zero.
- `rnetvhc`: the projected photo is the initial hidden and cell state.
- `soft-attention` (CaRNet's `rnetvhcattention`): as `rnetvhc`; in addition, every step reads a weighted mean of all
  regions (Xu et al., 2015, section 4.2).
- `hard-attention`: every step reads one sampled region (section 4.1).
"""

DECODER_ENTRY_POINTS = "captioner.decoders"
"""Entry point group through which other packages add decoders: a name for `--decoder`, and a class.

The class is a `captioner.models.decoder.CaptionDecoder` that attends to regions.
"""
_WITHOUT_ATTENTION = ("rnetvi", "rnetvh", "rnetvhc")
_PROJECTION = 512


def decoder_names() -> tuple[str, ...]:
    """Returns the names of all decoders; those registered by other packages come last."""
    registered = {entry.name for entry in entry_points(group=DECODER_ENTRY_POINTS)}
    return (*DECODERS, *sorted(registered - set(DECODERS)))


@dataclass(frozen=True)
class ModelConfig:
    """Encoder, decoder and their sizes."""

    encoder: str = "efficientnet_lite2"
    """Image encoder: efficientnet_lite2, a torchvision CNN, or timm/NAME."""
    encoder_weights: str = "default"
    """Initial weights of the encoder: `default` (pretrained), `none`, or a file (safetensors or a state dict)."""
    normalise: bool = True
    """Normalises pixels with the statistics of the encoder's training; otherwise they range from 0 to 1."""
    regions: Annotated[int, Range(0, 256)] = 0
    """Regions per side after pooling the encoder's grid; 0: no pooling, 1: one vector for the photo."""
    fine_tune: Annotated[int, Range(-1, 1000)] = -1
    """Index of the encoder's first trained child module (for a transformer, block); 5 is a ResNet's second stage, -1 is
    none. The frozen part's output is cached if no larger than the photo (for a transformer, than four photos)."""
    decoder: str = "soft-attention"
    """Name of the decoder: one of `DECODERS`, or one that another package registers."""
    gate: bool = True
    """Uses the attention gate beta (Xu et al., 2015, section 4.2.1)."""
    attention_activation: Literal["tanh", "relu"] = "tanh"
    """Activation of the sum of a region's key and the query in attention: tanh as in the paper, or relu (sgrvinod)."""
    attention_layers: Annotated[int, Range(1, 2)] = 1
    """Layers that map a region to its key and the hidden vector to the query; 2 as in ljm565 (soft attention)."""
    initial_state: Literal["learned", "projection", "weighted"] = "learned"
    """Initial LSTM state: `learned` has one layer each for hidden and cell state, `projection` is the mean projected
    region itself (CaRNet), which needs `projection` equal to `units`; `weighted` is learned from a weighted sum of the
    regions for each LSTM layer instead of their mean (ljm565)."""
    initial_tanh: bool = True
    """Bounds the initial hidden state with tanh."""
    project: Literal["auto", "relu", "linear", "none"] = "auto"
    """Projection layer after the encoder: `linear`, `relu` (linear with ReLU) or `none`. `auto` is linear if a decoder
    without attention starts from the projection itself, otherwise relu."""
    projection: Annotated[int, Range(0, 2**16)] = 0
    """Length of a projected region; 0: 512, or with rnetvi the value of `embedding`. Not used with project=none."""
    embedding: Size = 256
    """Length of a word vector."""
    units: Size = 512
    """Length of the LSTM's hidden and cell vectors."""
    attention: Size = 256
    """Dimension of the space in which attention compares regions with the hidden vector."""
    output: Literal["deep", "linear", "relu"] = "deep"
    """Output layer: `deep` reads word, hidden vector and context (Xu et al., 2015, equation 7), `linear` only the
    hidden vector, `relu` its positive part."""
    mask_special: bool = True
    """Never predicts padding, start or unknown; the probabilities of the other pieces sum to one."""
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
        if self.decoder not in DECODERS and self.decoder not in decoder_names():
            raise UsageError(
                f"There is no decoder {self.decoder!r}: choose one of {', '.join(decoder_names())}, or install the "
                "package that registers it."
            )
        if self.projection == 0:
            object.__setattr__(self, "projection", self.embedding if self.decoder == "rnetvi" else _PROJECTION)
        if self.decoder == "rnetvhcattention":
            object.__setattr__(self, "decoder", "soft-attention")
        if self.decoder == "rnetvi" and self.projection != self.embedding:
            raise UsageError(
                f"With rnetvi, the photo is read like a word: model.projection ({self.projection}) and model.embedding "
                f"({self.embedding}) must be equal; leave out model.projection."
            )
        if self.decoder != "rnetvi" and self.initial_state == "projection" and self.projection != self.units:
            raise UsageError(
                f"With initial_state=projection, the projection is the LSTM's state: projection ({self.projection}) "
                f"and units ({self.units}) must be equal."
            )
        if self.project == "none" and not self.learns_state:
            raise UsageError("project=none needs a layer for the LSTM's initial state; set initial_state=learned.")
        if self.initial_state == "weighted" and not self.attends:
            raise UsageError(f"initial_state=weighted needs regions; the decoder {self.decoder} takes one vector.")
        if self.attention_layers > 1 and self.decoder != "soft-attention":
            raise UsageError(f"attention_layers=2 needs decoder=soft-attention, not {self.decoder}.")
        if self.output != "deep" and self.tie_words and self.embedding != self.units:
            raise UsageError(
                f"With output={self.output}, tied words are compared with the hidden vector: embedding "
                f"({self.embedding}) and units ({self.units}) must be equal; or set tie_words=false."
            )

    @property
    def attends(self) -> bool:
        """True if the decoder attends to regions."""
        return self.decoder not in _WITHOUT_ATTENTION

    @property
    def learns_state(self) -> bool:
        """True if layers compute the initial state; otherwise the projected photo itself is the first word or state."""
        return self.decoder != "rnetvi" and self.initial_state != "projection"
