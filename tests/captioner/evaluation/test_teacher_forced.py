"""Teacher-forced loss, accuracy and top-5 accuracy equal values computed by hand."""

import math

import pytest
import torch

from captioner.evaluation.teacher_forced import TeacherForced, tally
from captioner.models.checkpoint import build_model
from captioner.models.decoder import pad_captions


def test_tally_counts_pieces_nats_and_ranks():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.0]] * 4)
    found = tally(logits, torch.tensor([0, 1, 4, 5]))  # ranks 1, 2, 5 and 6
    expected = 4 * torch.logsumexp(logits[0], 0).item() - (3 + 2 + 0.2 + 0.1)
    assert (found.words, found.right, found.among) == (4, 1, 3)
    assert found.nats == pytest.approx(expected, abs=1e-5)
    assert found.as_dict() == {"dev_loss": found.nats / 4, "accuracy": 1 / 4, "top_5": 3 / 4}


def test_the_loss_of_uniform_predictions_is_the_log_of_the_vocabulary_size():
    found = tally(torch.zeros(3, 50), torch.tensor([1, 2, 3]))
    assert found.as_dict()["dev_loss"] == pytest.approx(math.log(50), abs=1e-6)


def test_tallies_of_batches_add_up_to_the_tally_of_all_words():
    torch.manual_seed(0)
    logits, targets = torch.randn(30, 12), torch.randint(12, (30,))
    whole, parts = tally(logits, targets), tally(logits[:7], targets[:7]) + tally(logits[7:], targets[7:])
    assert (parts.words, parts.right, parts.among) == (whole.words, whole.right, whole.among)
    assert parts.nats == pytest.approx(whole.nats, rel=1e-6)


def test_an_empty_tally_has_scores_of_zero():
    assert TeacherForced().as_dict() == {"dev_loss": 0, "accuracy": 0, "top_5": 0}


@torch.inference_mode()
def taught(model, seen, tokens):
    teacher = model(seen, tokens)
    return tally(teacher.logits, teacher.targets)


def test_padding_is_not_counted_but_every_end_is(checkpoint):
    model, special = build_model(checkpoint), checkpoint.special
    captions = [[[special.start, 5, 6, 7, special.end], [special.start, 5, special.end]]]
    found = taught(model, checkpoint.samples[:1], pad_captions(captions, special.pad))
    assert found.words == 4 + 2


def test_photos_and_their_features_give_the_same_tally(checkpoint):
    model, special = build_model(checkpoint), checkpoint.special
    tokens = pad_captions([[[special.start, 5, 6, special.end]]], special.pad)
    photo = checkpoint.samples[:1]
    with torch.inference_mode():
        features = model.encoder(photo)
    assert taught(model, photo, tokens) == taught(model, features, tokens)
