"""Unexpected files are refused in one sentence, and no code in them is executed."""

from __future__ import annotations

import json
import os
import pickle
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from caprun.bundle.vocabulary import Vocabulary
from captioner.cli import main
from captioner.errors import CaptionerError
from captioner.importers.ljm565_words import words_of_training
from captioner.importers.systems import SYSTEMS, Request
from tests.captioner.importers.originals import write_captions

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog"]
_MODULES = ("attention.U", "attention.W", "attention.A", "init_h", "init_c", "fcn")
IMAGE_CAP = {
    "encoder.resnet.0.weight": torch.ones(1, 1),
    "decoder.embedding.weight": torch.ones(len(WORDS), 2),
    "decoder.lstm_cell.weight_ih": torch.ones(4, 3),
    **{f"decoder.{name}.{part}": torch.ones(len(WORDS), 1) for name in _MODULES for part in ("weight", "bias")},
}
"""Weights with image-cap's names and row counts."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(IMAGE_CAP, "weights.pth")
    Path("vocab.txt").write_text("\n".join(WORDS))
    Path("word_map.json").write_text(json.dumps({word: index for index, word in enumerate(WORDS)}))
    return tmp_path


def error_of(*arguments: str, status: int = 1) -> str:
    result = CliRunner().invoke(main, ["import", *arguments, "--output", "imported.pt"])
    assert result.exit_code == status, result.output
    assert not Path("imported.pt").exists()
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert line.endswith(".")
    return line.removeprefix("Error: ")


def image_cap(file: str = "weights.pth", vocabulary: str = "vocab.txt") -> str:
    return error_of("image-cap", file, "--vocabulary", vocabulary)


class Hostile:
    def __reduce__(self) -> object:
        return os.mkdir, ("executed",)


class Unknown(nn.Module):
    pass


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_code_in_a_checkpoint_is_refused_by_name_and_not_executed(folder, new):
    torch.save({"encoder": Hostile(), "decoder": 1}, "best.pth.tar", _use_new_zipfile_serialization=new)
    found = error_of("sgrvinod", "best.pth.tar", "--word-map", "word_map.json")
    assert found == "best.pth.tar contains posix.mkdir, which is neither weights nor plain data; do not use the file."
    assert not Path("executed").exists()


def test_code_in_a_vocabulary_is_refused_by_name_and_not_executed(folder):
    Path("word2id.pickle").write_bytes(pickle.dumps(Hostile()))
    found = image_cap(vocabulary="word2id.pickle")
    assert found == "word2id.pickle contains posix.mkdir, which is neither weights nor plain data; do not use the file."
    assert not Path("executed").exists()


def test_modules_of_other_classes_are_refused_by_name(folder):
    torch.save({"encoder": Unknown(), "decoder": Unknown()}, "best.pth.tar")
    found = error_of("sgrvinod", "best.pth.tar", "--word-map", "word_map.json")
    assert f"contains {Unknown.__module__}.Unknown, which" in found


def test_a_stand_in_gives_no_access_to_its_class(folder):
    class Pretending:
        """Gets an attribute of a class for which the importer has a stand-in."""

        def __reduce__(self) -> object:
            return getattr, (nn.Linear, "forward")

    torch.save({"encoder": Pretending()}, "best.pth.tar")
    assert "contains __builtin__.getattr" in error_of("sgrvinod", "best.pth.tar", "--word-map", "word_map.json")


def test_files_in_another_format_are_refused_with_what_they_hold(folder):
    torch.save({"epoch": 1, "model": IMAGE_CAP, "optimizer": {}}, "best.pt")
    found = error_of("sgrvinod", "best.pt", "--word-map", "word_map.json")
    assert found == "best.pt has no weights under encoder; it holds: epoch, model, optimizer."
    found = error_of("vvduc", "best.pt", "--vocabulary", "vocab.txt")
    assert found == (
        "There are no weights for CNN.model.features, CNN.model.classifier.0, RNN.embed, RNN.lstm, RNN.linear in "
        "best.pt, only for encoder.resnet, decoder.embedding, decoder.lstm_cell, decoder.attention, decoder.init_h, "
        "decoder.init_c, decoder.fcn; name the files of one complete model of this system."
    )
    Path("notes.txt").write_text("no weights")
    assert image_cap("notes.txt").startswith("notes.txt is not a PyTorch weights file (")
    assert image_cap("none.pth") == "There is no file none.pth."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)), "script.pth")
    assert image_cap("script.pth") == "script.pth is not a PyTorch weights file (it declares more data than it has)."
    torch.save([1, 2], "list.pth")
    assert image_cap("list.pth") == "list.pth has no weights; it holds: list."
    torch.save({0: torch.ones(1)}, "numbered.pth")
    assert image_cap("numbered.pth") == "numbered.pth has no weights; it holds: 0."


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_damaged_weights_are_refused(folder, new):
    torch.save(IMAGE_CAP, "weights.pth", _use_new_zipfile_serialization=new)
    whole = Path("weights.pth").read_bytes()
    for length in range(1, len(whole), len(whole) // 20):
        Path("weights.pth").write_bytes(whole[:-length])
        assert image_cap().startswith("weights.pth is not a PyTorch weights file (")


def test_a_missing_part_of_the_model_is_named(folder):
    half = {name: value for name, value in IMAGE_CAP.items() if name.startswith("encoder.")}
    torch.save(half, "half.pth")
    found = image_cap("half.pth")
    assert found.startswith("There are no weights for decoder.attention.U, decoder.attention.W, ")
    assert found.endswith(" in half.pth, only for encoder.resnet; name the files of one complete model of this system.")
    carnet = ["--word-map", "word_map.json", "--decoder", "rnetvi"]
    assert error_of("carnet", "half.pth", *carnet) == (
        "A model of CaRNet has 2 files, NAME_C.pth and NAME_R.pth; 1 given: half.pth."
    )
    assert " in half.pth and half.pth, only for " in error_of("carnet", "half.pth", "half.pth", *carnet)


@pytest.mark.parametrize(
    "other", [{"decoder.embedding.table": torch.ones(6, 2)}, {"decoder.embedding.weight": torch.tensor(1.0)}]
)
def test_weights_without_a_vector_for_each_word_are_refused(folder, other):
    rest = {name: value for name, value in IMAGE_CAP.items() if name != "decoder.embedding.weight"}
    torch.save(rest | other, "weights.pth")
    assert image_cap() == (
        "weights.pth is not a complete model of image-cap: 'decoder.embedding.weight' is missing or is not a matrix."
    )


def test_weights_that_the_system_does_not_have_are_named(folder):
    torch.save(IMAGE_CAP | {"decoder.f_beta.weight": torch.ones(1)}, "more.pth")
    assert image_cap("more.pth") == (
        "There are weights for decoder.f_beta.weight in more.pth, which a model of this system does not have; name the "
        "system and decoder that it was trained with."
    )


@pytest.mark.parametrize("beside", [{}, {"epoch": 3}, {"bleu": np.float64(0.1), 0: torch.ones(1)}])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
def test_incomplete_weights_are_refused_whatever_else_the_file_holds(folder, beside, mark):
    torch.save(IMAGE_CAP | beside, "weights.pth")
    Path("vocab.txt").write_text(mark + "\n".join(WORDS), encoding="utf-8")
    found = image_cap()
    assert found == "weights.pth is not a complete model of image-cap: 'decoder.hidden_gates.0.weight' is missing."


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"],
            "vocab.txt has 5 words, but the weights in weights.pth have 6; name the ",
        ),
        (
            ["a", "dog", "[PAD]", "[UNK]", "x", "y"],
            "vocab.txt does not have [CLS], [SEP]; it starts with a, dog, [PAD], ",
        ),
        (["[PAD]", "a", "a", "[UNK]"], "vocab.txt is not a vocabulary: its 3 words do not have the ids 0 to 2."),
    ],
)
def test_a_vocabulary_that_does_not_match_the_weights_is_refused(folder, words, problem):
    Path("vocab.txt").write_text("\n".join(words))
    assert image_cap().startswith(problem)


def test_words_with_control_characters_are_refused(folder):
    Path("vocab.txt").write_text("\n".join([*WORDS[:-1], "dog\x1b"]))
    assert image_cap() == (
        "vocab.txt cannot be imported: the piece 'dog\\x1b' contains a control character, or one that XML or UTF-8 "
        "does not allow; replace the word."
    )


def test_a_list_is_not_a_vocabulary(folder):
    Path("vocab.json").write_text('["a", "b"]')
    assert image_cap(vocabulary="vocab.json") == "vocab.json is not a vocabulary (it holds a list)."


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"a": 0, "b": 2}', '{"a": "x"}', '{"itos": {"x": "a"}}', "{}"])
def test_files_that_are_not_a_vocabulary_are_refused(folder, content):
    Path("vocab.json").write_text(content)
    assert image_cap(vocabulary="vocab.json").startswith("vocab.json is not a vocabulary")


def test_each_system_has_its_own_options(folder):
    found = error_of("sgrvinod", "weights.pth", "--vocabulary", "vocab.txt", status=2)
    assert found == "captioner import sgrvinod needs --word-map; see `main import --help`."
    found = error_of("carnet", "weights.pth", "--word-map", "word_map.json", status=2)
    assert found == "captioner import carnet needs --decoder; see `main import --help`."
    found = error_of("image-cap", "weights.pth", "--vocabulary", "vocab.txt", "--data", ".", status=2)
    assert found == "captioner import image-cap does not take --data; see `main import --help`."


def test_pieces_are_joined_as_berts_tokenizer_decodes_them(folder):
    found = SYSTEMS["image-cap"].find(Request([Path("weights.pth")], Path("vocab.txt")))
    pieces = ("the", "man", "'", "s", "dog", "##s", ",", "red", ".")
    assert Vocabulary(pieces, found.joining).text(range(len(pieces))) == "the man's dogs, red."


def test_an_output_is_never_overwritten(folder):
    Path("imported.pt").write_text("mine")
    result = CliRunner().invoke(
        main, ["import", "image-cap", "weights.pth", "--vocabulary", "vocab.txt", "--output", "imported.pt"]
    )
    assert result.stderr == "Error: imported.pt already exists; name another --output.\n"
    assert Path("imported.pt").read_text() == "mine"


# --- ljm565's vocabulary


def test_the_words_come_from_the_training_captions_ordered_by_count(tmp_path):
    write_captions(tmp_path / "data", ["dog", "red", "cat"])
    words = words_of_training(tmp_path / "data", 7)
    assert words == ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "dog", "red", "cat"]
    assert words_of_training(tmp_path / "data", 6) == words[:6], "it may keep fewer words"
    assert set(words_of_training(tmp_path / "data", 9)) == {*words, "unheard", "words"}, "or read all captions"
    with pytest.raises(CaptionerError, match=r"have 9 words, but the weights have 10; use --data to name the dataset"):
        words_of_training(tmp_path / "data", 10)


def test_training_rows_are_drawn_as_ljm565_draws_them(tmp_path):
    """Rows of `captions.txt` are drawn, not photos; words with equal counts keep the order of the draw."""
    write_captions(tmp_path, ["dog"])
    captions = [f"A dog's {number}-word, twice: {number % 7}!" for number in range(1200)]
    (tmp_path / "captions.txt").write_text("\n".join(["image,caption", *(f'0.png,"{one}"' for one in captions)]))
    random.seed(999)
    drawn = random.sample(list(range(1200)), 200)
    counts = Counter(word for row in drawn for word in ["a", "dogs", f"{row}word", "twice", str(row % 7)])
    expected = [word for word, _ in counts.most_common()]
    assert words_of_training(tmp_path, 4 + len(expected))[4:] == expected
