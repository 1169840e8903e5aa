"""The captioning model: an encoder, and a decoder that starts from its features."""

from __future__ import annotations

from importlib.metadata import entry_points

import torch
from torch import Tensor, nn

from caprun.bundle.vocabulary import Special
from captioner.config import DECODERS, Config, ModelConfig
from captioner.config.model import DECODER_ENTRY_POINTS
from captioner.errors import CaptionerError
from captioner.models.backbones import naming_its_package
from captioner.models.decoder import CaptionDecoder, Encoded, Teacher
from captioner.models.dropout import Dropout
from captioner.models.encoder import Encoder, build_encoder

_FEATURES = 3  # dimensions of features


class CaptionModel(nn.Module):
    """Combines an encoder with a decoder of `captioner.config.DECODERS` or of another package.

    Args:
        encoder: the image encoder.
        config: sizes of the decoder, and how the photo enters it.
        vocabulary: number of pieces.
        special: ids of the pieces that are not words.

    The initial hidden and cell states are linear layers over the mean region (Xu et al., 2015, section 3.1.2) or, with
    `initial_state = "projection"`, the projected mean region itself, the same in every LSTM layer. With `"weighted"`
    the linear layers read a weighted sum of regions, with a ReLU before and after it and separate weights for each LSTM
    layer. Unless `initial_tanh` is false, tanh keeps the hidden state between -1 and 1, the range of an LSTM's hidden
    state; the cell state is unbounded.
    """

    unsaid: Tensor

    def __init__(self, encoder: Encoder, config: ModelConfig, vocabulary: int, special: Special) -> None:
        super().__init__()
        self.encoder = encoder
        self.special = special
        self.word_dropout = config.word_dropout
        self.photo_is_read = config.decoder == "rnetvi"
        unsaid = torch.zeros(vocabulary)
        if config.mask_special:
            unsaid[[special.pad, special.start, special.unk]] = -torch.inf
        self.register_buffer("unsaid", unsaid, persistent=False)
        learned = config.learns_state
        channels = encoder.channels if config.project == "none" else config.projection
        projecting: list[nn.Module] = [] if config.project == "none" else [nn.Linear(encoder.channels, channels)]
        # a ReLU would discard the negative half of a projection that is itself the LSTM's initial state
        if config.project == "relu" or (config.project == "auto" and (config.attends or learned)):
            projecting.append(nn.ReLU())
        self.project = nn.Sequential(*projecting, Dropout(config.dropout))
        self.decoder = _build_decoder(config, channels, vocabulary)
        weighted = config.initial_state == "weighted"
        self.weigh = nn.Linear(encoder.regions, config.layers) if weighted else None
        states = config.units if weighted else config.layers * config.units
        self.initial_hidden = nn.Linear(channels, states) if learned else None
        self.initial_tanh = config.initial_tanh
        self.starts_with_cell = config.decoder != "rnetvh"
        self.initial_cell = nn.Linear(channels, states) if learned and self.starts_with_cell else None

    @property
    def attends(self) -> bool:
        """True if the decoder attends to regions at every step."""
        return self.decoder.attention is not None

    def encode(self, images: Tensor) -> Encoded:
        """Encodes photos, uint8 (photos, height, width, 3), for the decoder."""
        return self.start(self.encoder(images))

    def features(self, seen: Tensor) -> Tensor:
        """Returns features, float32 (photos, regions, channels), of photos in any form that `forward` accepts."""
        if seen.dtype == torch.uint8:
            features: Tensor = self.encoder(seen)
            return features
        return seen if seen.ndim == _FEATURES else self.encoder.after_stem(seen)

    def start(self, features: Tensor) -> Encoded:
        """Maps features, float32 (photos, regions, encoder channels), to the decoder's initial state and context."""
        attention = self.decoder.attention
        if attention is None:
            features = features.mean(1, keepdim=True)
        regions = self.project(features)
        if self.weigh is None:
            seen = regions.mean(1)
        else:
            seen = self.weigh(regions.relu().transpose(1, 2)).relu().transpose(1, 2)
        hidden, cell = self.decoder.read_photo(seen) if self.photo_is_read else self._initial_state(seen)
        if attention is None:
            return Encoded(hidden, cell)
        return Encoded(hidden, cell, regions, attention.keys(regions))

    def _initial_state(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the mean region (photos, channels), or a sum per layer (photos, layers, channels), to the initial state.

        Returns:
            hidden and cell (photos, layers, units).
        """
        layers, units = self.decoder.layers, self.decoder.units

        def state(layer: nn.Linear | None) -> Tensor:
            if layer is None:
                return seen.unsqueeze(1).repeat(1, layers, 1)
            values: Tensor = layer(seen)
            return values.view(-1, layers, units)

        hidden = state(self.initial_hidden)
        hidden = hidden.tanh() if self.initial_tanh else hidden
        return hidden, state(self.initial_cell) if self.starts_with_cell else torch.zeros_like(hidden)

    def forward(self, seen: Tensor, tokens: Tensor, sampling: float = 0.0) -> Teacher:
        """Predicts each word of given captions from the words before it.

        Args:
            seen: features, float (photos, regions, channels); or the output of the encoder's stem, float (photos,
                channels, rows, columns); or photos, uint8 (photos, height, width, 3).
            tokens: int64 (photos, captions, 1 + length), the longest caption of each photo first.
            sampling: in training, the share of input words that are drawn from the model; see `CaptionDecoder.teach`.
        """
        read = tokens
        if self.training and self.word_dropout:
            # with words hidden, the decoder has to rely on the photo (Bowman et al., 2016, section 3.1)
            hidden = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout
            words = (tokens != self.special.pad) & (tokens != self.special.start)
            read = tokens.masked_fill(hidden & words, self.special.unk)
        encoded = self.start(self.features(seen))
        share = sampling if self.training else 0.0
        return self.decoder.teach(encoded, tokens, self.special.pad, read, share, self.unsaid)

    def candidates(
        self, row: Tensor | None, parent: Tensor, token: Tensor, encoded: Encoded, k: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Runs one step of search, with the semantics of `caprun.search.steps.Steps` and of the exported decoder.

        Args:
            row: int64 (rows,), photos still being captioned; unused by decoders without attention.
            parent: int64 (rows, beams), indices of the states to continue.
            token: int64 (rows, beams), the last pieces.
            encoded: hidden and cell (states, layers, units); regions and keys of all photos.
            k: number of candidates; a scalar tensor while a graph is traced.

        Returns:
            log_prob and candidate (rows, beams, k), hidden and cell (rows x beams, layers, units), and alpha (rows,
            beams, regions) or None. PAD, START and UNK have probability 0 unless `mask_special` is false.
        """
        # unlike indexing with a tensor, index_select exports as a plain Gather
        states = (encoded.hidden, encoded.cell)
        hidden, cell = (s.index_select(0, parent.flatten()).view(*parent.shape, *s.shape[1:]) for s in states)
        regions, keys = (
            None if context is None or row is None else context.index_select(0, row)
            for context in (encoded.regions, encoded.keys)
        )
        logits, hidden, cell, alpha = self.decoder.step(token, hidden, cell, regions, keys)
        log_prob, candidate = torch.topk(torch.log_softmax(logits + self.unsaid, dim=2), k, dim=2)  # type: ignore[arg-type]
        return log_prob, candidate, hidden.flatten(0, 1), cell.flatten(0, 1), alpha


def _build_decoder(config: ModelConfig, channels: int, vocabulary: int) -> CaptionDecoder:
    """Builds the configured decoder, possibly from another package.

    Raises:
        CaptionerError: the other package's class cannot be built, or is not a CaptionDecoder with attention.
    """
    if config.decoder in DECODERS:
        return CaptionDecoder(config, channels, vocabulary)
    entry = next(iter(entry_points(group=DECODER_ENTRY_POINTS, name=config.decoder)))
    with naming_its_package("decoder", entry):
        decoder = entry.load()(config, channels, vocabulary)
        if not isinstance(decoder, CaptionDecoder) or decoder.attention is None:
            raise TypeError("it is not a CaptionDecoder with attention")
        return decoder


def build_caption_model(config: Config, vocabulary: int, special: Special, weights: str = "none") -> CaptionModel:
    """Builds encoder and decoder; a decoder without attention gets one vector per photo.

    Args:
        config: the configuration; `data.image_size` and `model` are used.
        vocabulary: number of pieces.
        special: ids of the pieces that are not words.
        weights: the encoder's weights, see `build_encoder`: `config.model.encoder_weights` for a new training, `none`
            if a checkpoint will be loaded.

    Raises:
        CaptionerError: the encoder is unknown, its weights are unavailable, or the sizes do not fit.
    """
    model, size = config.model, config.data.image_size
    if model.regions > 1 and not model.attends:
        raise CaptionerError(
            f"model.regions is {model.regions}, but the decoder {model.decoder} takes one vector per photo. Leave out "
            "model.regions, or choose a decoder with attention."
        )
    regions = model.regions if model.attends else 1
    encoder = build_encoder(
        model.encoder, (size, size), weights, regions=regions, fine_tune=model.fine_tune, normalise=model.normalise
    )
    return CaptionModel(encoder, model, vocabulary, special)
