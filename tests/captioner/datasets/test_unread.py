"""Caption files that are ignored in favour of another file are reported."""

from __future__ import annotations

import pytest

from captioner.datasets import load_dataset
from captioner.datasets.inspection import inspect
from tests.captioner.datasets.folders import Files, write

PHOTOS = ("1.jpg", "images/2.jpg", "train2014/3.jpg")
TABLE = "image,caption\n1.jpg,A dog .\n"
LINES = '{"file_name": "1.jpg", "text": "A dog ."}'
TOKENS = "1.jpg#0\tA dog .\n"
COCO = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "A dog ."}]}


def karpathy(photo: str) -> Files:
    return {"images": [{"filename": photo, "split": "train", "sentences": [{"raw": "A dog ."}]}]}


@pytest.mark.parametrize(
    ("read", "unread"),
    [
        ({"captions.csv": TABLE}, {"captions.tsv": "image\tcaption\n1.jpg\tA cat .\n"}),
        ({"captions.csv": TABLE}, {"captions.txt": TABLE}),
        ({"captions.csv": TABLE}, {"test/metadata.jsonl": LINES, "Flickr8k.token.txt": TOKENS}),
        ({"captions.csv": TABLE}, {"captions_extra.csv": TABLE, "train.jsonl": LINES}),
        ({"captions.csv": "image_name,comment_number,comment\n1.jpg,0,A dog .\n"}, {"captions.tsv": TABLE}),
        ({"dataset_x.json": karpathy("1.jpg")}, {"captions.csv": TABLE, "Flickr8k.token.txt": TOKENS}),
        ({"dataset_a.json": karpathy("1.jpg")}, {"dataset_b.json": karpathy("2.jpg")}),
        ({"metadata.jsonl": LINES}, {"metadata.csv": TABLE}),
        ({"train/metadata.csv": TABLE, "metadata.jsonl": LINES}, {"metadata.csv": TABLE}),
        ({"captions.csv": TABLE}, {"1.txt": "A cat .", "images/2.txt": "A cow ."}),
        ({"Flickr8k.token.txt": TOKENS}, {"Flickr8k_text/Flickr8k.token.txt": TOKENS}),
        ({"captions.json": COCO}, {"annotations/captions_val2017.json": COCO, "val/captions.json": COCO}),
        ({"annotations/captions_train2014.json": COCO}, {"annotations/captions_train2017.json": COCO}),
        ({"captions.csv": TABLE}, {"data/train-0.parquet": "photos in a table"}),
        ({"captions.csv": TABLE}, {"more/captions.csv": TABLE, "more/1.json": COCO, "all.txt": TABLE}),
        ({"captions.json": COCO}, {"more.json": [{"image": "1.jpg", "caption": "A cat ."}]}),
    ],
    ids=lambda files: " ".join(files),
)
def test_unread_caption_files_are_in_the_report_and_the_summary(tmp_path, read: Files, unread: Files) -> None:
    directory = write(tmp_path, read | unread, *PHOTOS)
    (directory / "train").mkdir(exist_ok=True)
    write(directory, {}, "train/1.jpg")
    dataset = load_dataset(directory)
    found = dataset.problems.unread
    assert {line.split(" (")[0] for line in found} == set(unread)
    assert all(line.partition(": ")[2].startswith(", ".join(sorted(read))) for line in found)
    assert found == inspect(directory, photos=False).problems["caption files are not read"]
    assert f"warning: {len(found)} caption files are not read: {found[0]}" in "".join(dataset.summary())


def test_other_files_of_a_dataset_cause_no_warning(tmp_path) -> None:
    files = {
        "Flickr8k.lemma.token.txt": TOKENS,
        "Flickr_8k.trainImages.txt": "1.jpg\n",
        "Flickr_8k.devImages.txt": "1.jpg\n",
        "ExpertAnnotations.txt": "1.jpg\t2.jpg#2\t1\t1\t1\n",
        "README.txt": "Captions of photos.\n",
        "LICENSE.txt": "Free, for all.\n",
        "readme": "image,caption\n",
        "dataset_coco.json": karpathy("other.jpg"),
        "dataset_flickr8k.json": karpathy("1.jpg"),
        "annotations/instances_val2017.json": {"annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]},
        "captions.json/.DS_Store": "",
        "._captions.csv": TABLE,
    }
    assert load_dataset(write(tmp_path, files, *PHOTOS)).problems.unread == []
