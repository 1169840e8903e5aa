"""The model card lists scores, stages and data by dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from capexport.card import model_card
from caprun.bundle.reading import read_bundle

TINY = Path(__file__).parents[1] / "tiny" / "bundle"
METRICS = {
    "split": "dev",
    "photos": 30,
    "references": 150,
    "bleu_4": 0.25,
    "cider": 0.6,
    "photos@f8k": 20,
    "bleu_4@f8k": 0.24,
    "cider@f8k": 0.5,
    "photos@mine": 10,
    "bleu_4@mine": 0.26,
    "cider@mine": 0.75,
}


def test_scores_have_a_row_per_dataset_only_with_several_datasets():
    manifest = read_bundle(TINY).manifest
    card = model_card(replace(manifest, metrics=METRICS), "Introduction.")
    assert "| photos | BLEU-4 | CIDEr |" in card
    rows = [line for line in card.splitlines() if line.startswith(("| together", "| f8k", "| mine"))]
    assert rows == [
        "| together, 30 photos | 25.0 | 60.0 |",
        "| f8k, 20 photos | 24.0 | 50.0 |",
        "| mine, 10 photos | 26.0 | 75.0 |",
    ]
    alone = {key: value for key, value in METRICS.items() if "@" not in key}
    card = model_card(replace(manifest, metrics=alone), "Introduction.")
    assert "| BLEU-4 | CIDEr |\n| --- | --- |\n| 25.0 | 60.0 |" in card


def test_stages_and_data_list_every_dataset():
    manifest = read_bundle(TINY).manifest
    scores = {"cider": 0.6, "bleu_4": 0.25, "cider@f8k": 0.5, "bleu_4@f8k": 0.24}
    training = {
        "datasets": [
            {"name": "f8k", "photos": {"train": 60, "dev": 20}, "weight": 1.0},
            {"name": "mine", "photos": {"train": 9, "dev": 10}, "weight": 2.0},
        ],
        "stages": [{"name": "first", "seconds": 600, "epoch": 4, **scores}],
    }
    card = model_card(replace(manifest, provenance={"training": training}), "Introduction.")
    assert "Data: f8k, train 60, dev 20 photos; mine, train 9, dev 10 photos, weight 2." in card
    assert "| stage | minutes | best epoch | CIDEr | BLEU-4 | CIDEr, f8k | BLEU-4, f8k |" in card
    assert "| first | 10 | 4 | 60.0 | 25.0 | 50.0 | 24.0 |" in card
