"""Keeps what a trained model says of photos that it has learnt, while it learns others.

Their captions are the model's own, found by its search, instead of people's (pseudorehearsal: Robins, "Catastrophic
forgetting, rehearsal and pseudorehearsal", 1995; sequence-level distillation: Kim and Rush, 2016). People's would undo
what the stages after cross-entropy have won.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from captioner.datasets import Example
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import Checkpoint
from captioner.progress import Progress
from captioner.text.tokenizer import SPECIAL
from captioner.training.inputs.batches import Batches, Source
from captioner.training.processes import Processes
from captioner.training.validation import PHOTOS, Validation


def drawn(examples: Sequence[Example], shares: Mapping[str, float], seed: int) -> list[Example]:
    """Returns the examples, in order, with only a share of those of each dataset in `shares`, but at least one."""
    kept = np.ones(len(examples), bool)
    for name, share in shares.items():
        rows = np.array([row for row, example in enumerate(examples) if example.dataset == name], int)
        kept[np.random.default_rng(seed).permutation(rows)[max(1, round(share * len(rows))) :]] = False
    return [example for example, keep in zip(examples, kept, strict=True) if keep]


@torch.inference_mode()
def own_captions(
    model: CaptionModel, checkpoint: Checkpoint, source: Source, examples: Sequence[Example], processes: Processes
) -> list[str]:
    """Returns the model's caption of every photo, in order, found with the checkpoint's search and vocabulary.

    Each process captions a share of the photos, and all return the same captions.
    """
    model.eval()
    none, rank, count = [[SPECIAL.start, SPECIAL.end]], processes.rank, processes.count
    batches = Batches(source, [none] * len(examples), PHOTOS, SPECIAL.pad, rank=rank, count=count)
    photos = Validation(batches, examples, checkpoint)
    found: dict[int, str] = {}
    with Progress("rehearsal", len(batches.share()), "photos", quiet=not processes.first) as progress:
        for batch in batches.in_order():
            captions = photos.captions(model, model.features(batch.seen.to(model.unsaid.device)), batch)
            texts = [checkpoint.vocabulary.text(caption.ids) for caption in captions]
            found |= zip(batch.photos.tolist(), texts, strict=True)
            progress.advance(len(captions))
    found = {photo: text for share in processes.gather(found) for photo, text in share.items()}
    return [found[photo] for photo in range(len(examples))]
