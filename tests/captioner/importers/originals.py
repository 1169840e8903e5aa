"""Five other captioners in plain PyTorch, written from their equations, with the original weight and file names.

Their weights are random and their sizes small; ResNet-18 replaces ResNet-50 and ResNet-101 unless `encoder` is given.
They use none of this project's modules.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn.backends.thnn import _get_thnn_function_backend

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
WORDS = ("a", "the", "dog", "cat", "man", "woman", "red", "blue", "runs", "sits", "on", "in", "with", ".", ",", "snow")


ENCODERS = ("encoder.resnet", "C.resnet", "CNN.model.features")


def resnet(name: str, last: int) -> nn.Sequential:
    return nn.Sequential(*list(torchvision.models.get_model(name).children())[:last])


def pixels(photo: Path, size: int, *, normalise: bool = True) -> Tensor:
    """Returns a photo as (1, 3, size, size), resized without keeping its aspect ratio."""
    image = Image.open(photo).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return ((values - MEAN) / STD if normalise else values)[None]


class Original(nn.Module):
    """A captioner of another project; its modules have the names that the project uses."""

    system: str
    words: list[str]
    start: str
    end: str
    longest: int  # pieces, including the end

    def begin(self, photo: Path) -> Any:
        """Returns the state before the first word."""
        raise NotImplementedError

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Returns logits (1, words) after a token (1,), and the new state."""
        raise NotImplementedError

    def write(self, folder: Path) -> list[str]:
        """Writes the model's files; returns the arguments that import them."""
        raise NotImplementedError

    @torch.inference_mode()
    def greedy(self, photo: Path) -> Iterator[tuple[int, Tensor]]:
        """Yields each word of the greedy caption, and the log-probabilities of all words at its step."""
        token, state = torch.tensor([self.words.index(self.start)]), self.begin(photo)
        for _ in range(self.longest):
            logits, state = self.step(token, state)
            log_prob = torch.log_softmax(logits[0], 0)
            token = log_prob.argmax()[None]
            yield int(token), log_prob
            if self.words[int(token)] == self.end:
                return

    def text(self, words: list[str]) -> str:
        return " ".join(words)


def additive(regions: Tensor, context: Tensor, score: nn.Linear, activation: Any) -> Tensor:
    """Returns the attended region (1, channels); `context` is keys plus query (1, regions, attention)."""
    alpha = torch.softmax(score(activation(context)).squeeze(2), dim=1)
    return (regions * alpha.unsqueeze(2)).sum(1)


class Attention(nn.Module):
    def __init__(self, channels: int, units: int, attention: int) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(channels, attention)
        self.decoder_att = nn.Linear(units, attention)
        self.full_att = nn.Linear(attention, 1)
        self.relu, self.softmax = nn.ReLU(), nn.Softmax(dim=1)


class Encoder(nn.Module):
    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.enc_image_size = size
        self.resnet = resnet(name, -2)
        self.adaptive_pool = nn.AdaptiveAvgPool2d((size, size))


class DecoderWithAttention(nn.Module):
    def __init__(self, channels: int, words: int) -> None:
        super().__init__()
        self.attention = Attention(channels, 12, 10)
        self.embedding = nn.Embedding(words, 8)
        self.dropout = nn.Dropout(0.5)
        self.decode_step = nn.LSTMCell(8 + channels, 12, bias=True)
        self.init_h, self.init_c = nn.Linear(channels, 12), nn.Linear(channels, 12)
        self.f_beta = nn.Linear(12, channels)
        self.sigmoid = nn.Sigmoid()
        self.fc = nn.Linear(12, words)


def parallel(module: nn.Module) -> nn.Module:
    """Returns the module wrapped in `DataParallel`, as on a machine with a GPU."""
    wrapped = nn.DataParallel(module)
    wrapped.src_device_obj = torch.device("cuda", 0)
    return wrapped


class _Backend:
    """Stands in for the backend that every module referred to before PyTorch 1.2."""

    def __reduce__(self) -> Any:
        return _get_thnn_function_backend, ()


class Sgrvinod(Original):
    system, start, end, longest = "sgrvinod", "<start>", "<end>", 51

    def __init__(self, encoder: str = "resnet18", *, old: bool = False, size: int = 14, parallel: bool = False) -> None:
        super().__init__()
        self.old, self.parallel = old, parallel
        self.words = ["<pad>", *WORDS, "<unk>", "<start>", "<end>"]
        self.encoder = Encoder(encoder, size)
        self.decoder = DecoderWithAttention(512 if encoder == "resnet18" else 2048, len(self.words))

    def begin(self, photo: Path) -> Any:
        grid = self.encoder.adaptive_pool(self.encoder.resnet(pixels(photo, 256)))
        regions = grid.permute(0, 2, 3, 1).flatten(1, 2)
        return regions, self.decoder.init_h(regions.mean(1)), self.decoder.init_c(regions.mean(1))

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        (regions, h, c), one = state, self.decoder
        compared = one.attention.encoder_att(regions) + one.attention.decoder_att(h).unsqueeze(1)
        seen = torch.sigmoid(one.f_beta(h)) * additive(regions, compared, one.attention.full_att, torch.relu)
        h, c = one.decode_step(torch.cat([one.embedding(token), seen], dim=1), (h, c))
        return one.fc(h), (regions, h, c)

    def write(self, folder: Path) -> list[str]:
        optimiser = torch.optim.Adam(self.decoder.parameters(), lr=4e-4)
        self.decoder.fc(torch.rand(1, 12)).sum().backward()
        optimiser.step()
        if self.old:
            for module in self.modules():
                module._backend = _Backend()
        content = {
            "bleu-4": 0.2,
            "encoder": parallel(self.encoder) if self.parallel else self.encoder,
            "encoder_optimizer": None,
            "decoder": parallel(self.decoder) if self.parallel else self.decoder,
            "decoder_optimizer": optimiser,
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "models", ModuleType("models"))
            for one in (Attention, Encoder, DecoderWithAttention):
                patch.setattr(sys.modules["models"], one.__name__, one, raising=False)
                patch.setattr(one, "__module__", "models")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about source code, which the old format also stores
                path = folder / "BEST_checkpoint_coco.pth.tar"
                torch.save(content, path, _use_new_zipfile_serialization=not self.old)
        word_map = {word: index for index, word in [*enumerate(self.words)][1:]} | {"<pad>": 0}
        (folder / "WORDMAP_coco.json").write_text(json.dumps(word_map))
        return [str(folder / "BEST_checkpoint_coco.pth.tar"), "--word-map", str(folder / "WORDMAP_coco.json")]


class Carnet(Original):
    system, start, end, longest = "carnet", "<START>", "<END>", 14

    def __init__(self, decoder: str, encoder: str = "resnet18", *, splits: int = 7) -> None:
        super().__init__()
        self.decoder, self.splits = decoder, splits
        self.words = ["<PAD>", "<START>", "<END>", "<UNK>", *WORDS]
        channels, words, units = (512 if encoder == "resnet18" else 2048), len(self.words), 12
        attends = decoder == "rnetvhcattention"
        self.C, self.R = nn.Module(), nn.Module()
        self.C.resnet = resnet(encoder, -2 if attends else -1)
        self.R.words_embedding = nn.Embedding(words, words, padding_idx=0)
        self.R.linear_1 = nn.Linear(units, words)
        if not attends:
            self.C.linear = nn.Linear(channels, words if decoder == "rnetvi" else units)
        else:
            self.R.attention = nn.Module()
            self.R.attention.image_attention_projection = nn.Linear(channels, 10)
            self.R.attention.lstm_hidden_state_attention_projection = nn.Linear(units, 10)
            self.R.attention.attention = nn.Linear(10, 1)
            self.R.h_0, self.R.c_0 = nn.Linear(channels, units), nn.Linear(channels, units)
            self.R.f_beta = nn.Linear(units, channels)
        self.R.lstm_unit = nn.LSTMCell(words + channels * attends, units)

    def begin(self, photo: Path) -> Any:
        grid = self.C.resnet(pixels(photo, 224))
        if self.decoder == "rnetvhcattention":
            regions = nn.functional.adaptive_avg_pool2d(grid, self.splits).permute(0, 2, 3, 1).flatten(1, 2)
            return regions, self.R.h_0(regions.mean(1)), self.R.c_0(regions.mean(1))
        image = self.C.linear(grid.flatten(1))
        if self.decoder == "rnetvi":
            return None, *self.R.lstm_unit(image)
        return None, image, torch.zeros_like(image) if self.decoder == "rnetvh" else image

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        regions, h, c = state
        read = self.R.words_embedding(token)
        if regions is not None:
            one = self.R.attention
            compared = one.image_attention_projection(regions) + one.lstm_hidden_state_attention_projection(
                h
            ).unsqueeze(1)
            seen = torch.sigmoid(self.R.f_beta(h)) * additive(regions, compared, one.attention, torch.relu)
            read = torch.cat([read, seen], dim=1)
        h, c = self.R.lstm_unit(read, (h, c))
        return self.R.linear_1(h), (regions, h, c)

    def write(self, folder: Path) -> list[str]:
        for name, one in (("C", self.C), ("R", self.R)):
            torch.save(one.state_dict(), folder / f"CaRNet_512_12_10_{name}.pth")
        with (folder / "word2id.pickle").open("wb") as file:
            pickle.dump({word: index for index, word in enumerate(self.words)}, file, pickle.HIGHEST_PROTOCOL)
        files = [str(folder / f"CaRNet_512_12_10_{name}.pth") for name in "CR"]
        splits = ["--regions", str(self.splits)] * (self.splits != 7)
        return [*files, "--word-map", str(folder / "word2id.pickle"), "--decoder", self.decoder, *splits]


class ImageCap(Original):
    system, start, end, longest = "image-cap", "[CLS]", "[SEP]", 50

    def __init__(self, encoder: str = "resnet18") -> None:
        super().__init__()
        self.words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##ing", "!"]
        channels = 512 if encoder == "resnet18" else 2048
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.resnet = resnet(encoder, -2)
        self.decoder.attention = nn.Module()
        self.decoder.attention.W, self.decoder.attention.U = nn.Linear(12, 10), nn.Linear(channels, 10)
        self.decoder.attention.A = nn.Linear(10, 1)
        self.decoder.embedding = nn.Embedding(len(self.words), 8)
        self.decoder.init_h, self.decoder.init_c = nn.Linear(channels, 12), nn.Linear(channels, 12)
        self.decoder.lstm_cell = nn.LSTMCell(8 + channels, 12)
        self.decoder.fcn = nn.Linear(12, len(self.words))

    def begin(self, photo: Path) -> Any:
        regions = self.encoder.resnet(pixels(photo, 224, normalise=False)).permute(0, 2, 3, 1).flatten(1, 2)
        return regions, self.decoder.init_h(regions.mean(1)), self.decoder.init_c(regions.mean(1))

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        (regions, h, c), one = state, self.decoder
        compared = one.attention.U(regions) + one.attention.W(h).unsqueeze(1)
        seen = additive(regions, compared, one.attention.A, torch.tanh)
        h, c = one.lstm_cell(torch.cat([one.embedding(token), seen], dim=1), (h, c))
        return one.fcn(h), (regions, h, c)

    def text(self, words: list[str]) -> str:
        """Joins pieces as `BertTokenizer.decode` does, but also removes the ## of a first piece."""
        return re.sub(r" ([.?!,])", r"\1", " ".join(words).replace(" ##", "").removeprefix("##"))

    def write(self, folder: Path) -> list[str]:
        state = {name: value for name, value in self.state_dict().items() if name.startswith(("encoder.", "decoder."))}
        torch.save(state, folder / "model_weights.pth")
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in self.words))
        return [str(folder / "model_weights.pth"), "--vocabulary", str(folder / "vocab.txt")]


class Vvduc(Original):
    system, start, end, longest = "vvduc", "<SOS>", "<EOS>", 49

    def __init__(self, *, layers: int = 1) -> None:
        super().__init__()
        self.words = ["<PAD>", "<SOS>", "<EOS>", "<UNK>", *WORDS]
        self.CNN, self.RNN = nn.Module(), nn.Module()
        self.CNN.model = torchvision.models.efficientnet_b2()
        self.CNN.model.classifier = nn.Sequential(nn.Linear(1408, 8), nn.ReLU(), nn.Dropout(0.5))
        self.RNN.embed = nn.Embedding(len(self.words), 8)
        self.RNN.lstm = nn.LSTM(8, 12, layers)
        self.RNN.linear = nn.Linear(12, len(self.words))

    def begin(self, photo: Path) -> Any:
        return self.RNN.lstm(self.CNN.model(pixels(photo, 224))[None])[1]

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden, state = self.RNN.lstm(self.RNN.embed(token)[None], state)
        return self.RNN.linear(hidden[0]), state

    def write(self, folder: Path) -> list[str]:
        state = {name: value for name, value in self.state_dict().items() if name.startswith(("CNN.", "RNN."))}
        optimiser = torch.optim.Adam(self.parameters()).state_dict()
        torch.save({"epoch": 3, "model": state, "optimizer": optimiser}, folder / "best.pt")
        numbered = dict(enumerate(self.words))
        vocabulary = {"itos": numbered, "stoi": {word: index for index, word in numbered.items()}}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        return [str(folder / "best.pt"), "--vocabulary", str(folder / "vocab.json")]


class Ljm565(Original):
    system, start, end, longest = "ljm565", "[BOS]", "[EOS]", 63

    def __init__(self, encoder: str = "resnet18", *, layers: int = 1) -> None:
        super().__init__()
        self.layers = layers
        self.words = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", *(word for word in WORDS if word.isalpha())]
        channels, units = (512 if encoder == "resnet18" else 2048), 12
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.resnet = resnet(encoder, -2)
        self.encoder.hidden_dim_changer = nn.Sequential(nn.Linear(14 * 14, layers), nn.ReLU())
        self.encoder.h_mlp, self.encoder.c_mlp = nn.Linear(channels, units), nn.Linear(channels, units)

        def two(inputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, units))

        self.decoder.attention = nn.Module()
        self.decoder.attention.enc_wts, self.decoder.attention.dec_wts = two(channels), two(units)
        self.decoder.attention.score_wts = nn.Linear(units, 1)
        self.decoder.embedding = nn.Embedding(len(self.words), units, padding_idx=0)
        self.decoder.lstm = nn.LSTM(units + channels, units, layers, batch_first=True)
        self.decoder.beta = nn.Sequential(nn.ReLU(), nn.Linear(units, channels), nn.Sigmoid())
        self.decoder.fc = nn.Sequential(nn.ReLU(), nn.Dropout(0.1), nn.Linear(units, len(self.words)))

    def begin(self, photo: Path) -> Any:
        regions = nn.functional.adaptive_avg_pool2d(self.encoder.resnet(pixels(photo, 256)), 14).flatten(2)
        seen = self.encoder.hidden_dim_changer(regions.relu()) if self.layers > 1 else regions.mean(2, keepdim=True)
        seen = seen.permute(2, 0, 1)
        return regions.transpose(1, 2), (self.encoder.h_mlp(seen), self.encoder.c_mlp(seen))

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        (regions, hidden), one = state, self.decoder
        h = hidden[0][-1]
        compared = one.attention.enc_wts(regions.relu()) + one.attention.dec_wts(h.relu()).unsqueeze(1)
        seen = one.beta(h) * additive(regions.relu(), compared, one.attention.score_wts, torch.tanh)
        output, hidden = one.lstm(torch.cat([one.embedding(token), seen], dim=1)[:, None], hidden)
        return one.fc(output[:, 0]), (regions, hidden)

    def write(self, folder: Path) -> list[str]:
        model = {"encoder": self.encoder.state_dict(), "decoder": self.decoder.state_dict()}
        torch.save({"model": model, "log_data": {"bleu4": [np.float64(0.1)]}}, folder / "model.pt")
        write_captions(folder / "data", self.words[4:])
        return [str(folder / "model.pt"), "--data", str(folder / "data")]


def write_captions(folder: Path, words: list[str]) -> None:
    """Writes a dataset with training captions in which earlier words are more frequent."""
    (folder / "images").mkdir(parents=True)
    rows = ["image,caption"]
    for number in range(len(words)):
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{number}.png")
        rows.append(f"{number}.png,{' '.join(words[: number + 1]).title()} .")
    rows.append("dev.png,Unheard words")
    Image.new("RGB", (8, 8)).save(folder / "images" / "dev.png")
    (folder / "captions.txt").write_text("\n".join(rows) + "\n")
    (folder / "Flickr_8k.trainImages.txt").write_text("".join(f"{number}.png\n" for number in range(len(words))))
    (folder / "Flickr_8k.devImages.txt").write_text("dev.png\n")


def randomised(original: Original, seed: int = 0) -> Original:
    """Sets random weights with which captions depend on the photo; returns the model in evaluation mode."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            if not name.startswith(ENCODERS):
                spread = 2 / parameter.shape[1] ** 0.5 if parameter.dim() > 1 else 0.5
                parameter.copy_(torch.randn(parameter.shape) * spread)
        encoder = next(module for name, module in original.named_modules() if name in ENCODERS)
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
            if hasattr(module, "downsample"):  # small residuals, so that rounding does not grow from block to block
                getattr(module, "bn3", module.bn2).weight.fill_(0.2)
        # without these batch statistics, the photo would not affect the last layer
        encoder.train()(nn.functional.interpolate(2 * torch.randn(8, 3, 8, 8), (128, 128), mode="bicubic"))
    return original.eval()
