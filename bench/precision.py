"""How int8 is best calibrated: what each way of choosing ranges does to the encoder, to captions and to speed.

    python bench/precision.py --data flickr8k
    python bench/precision.py --data flickr8k --checkpoint runs/a/best.pt --photos 200

int8 graphs are written as `captioner export --precision int8` writes them, calibrated on photos of the training split,
and compared with fp32 on photos of dev. The encoder's error is the length of the difference of its outputs from
fp32's, divided by the length of fp32's, the mean of its outputs. Photos/s are of one photo at a time, uint8 array to
caption, one thread, the model's own search; fp32 and int8 take turns, and the ratio is that of their best turns.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capexport.export import Request, export
from capexport.quantization.acceptance import TIMED_PHOTOS, Evidence, captions_of, evidence_of, photos_per_second
from capexport.quantization.int8 import write_int8
from capexport.quantization.ranges import Calibration
from caprun.bundle.manifest import FULL_PRECISION
from caprun.bundle.reading import Bundle, read_bundle
from caprun.bundle.writing import write_manifest
from caprun.engine import Captioner, packaged_bundle
from caprun.inference.session import OnnxBackend
from captioner.datasets import load_dataset
from captioner.evaluation.metrics import score

CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "entropy", "percentile")
BEAMS = (1, 3)
ENCODED_PHOTOS, BATCH = 64, 16


@dataclass(frozen=True)
class Quality:
    """What a precision says."""

    encoded: dict[str, npt.NDArray[np.float32]]
    captions: dict[int, list[str]]
    """By beam size."""


def fp32_bundle(checkpoint: Path | None, directory: Path) -> Bundle:
    """A bundle of fp32 graphs: a checkpoint's, or a copy of the installed one's."""
    if checkpoint is not None:
        export(Request(checkpoint, "onnx", directory, "bench"), lambda _: None)
        return read_bundle(directory)
    installed = read_bundle(packaged_bundle())
    fp32 = installed.manifest.precisions[FULL_PRECISION]
    directory.mkdir()
    for file in (fp32.encoder, fp32.decoder):
        shutil.copy(installed.path / file, directory)
    write_manifest(directory, replace(installed.manifest, precisions={FULL_PRECISION: fp32}), installed.vocabulary, "")
    return read_bundle(directory)


def with_int8(bundle: Bundle, evidence: Evidence, calibration: Calibration) -> Bundle:
    """The bundle with int8 graphs calibrated in one way, in the place of those before."""
    precisions = {
        FULL_PRECISION: bundle.manifest.precisions[FULL_PRECISION],
        "int8": write_int8(bundle, evidence.calibration, calibration),
    }
    write_manifest(bundle.path, replace(bundle.manifest, precisions=precisions), bundle.vocabulary, "")
    return read_bundle(bundle.path)


def captioner_of(bundle: Bundle, precision: str, threads: int) -> Captioner:
    """The bundle on the CPU."""
    return Captioner(bundle.manifest, bundle.vocabulary, OnnxBackend(bundle, "cpu", threads, precision))


def quality(bundle: Bundle, precision: str, photos: npt.NDArray[np.uint8], threads: int) -> Quality:
    """Encode and caption."""
    captioner = captioner_of(bundle, precision, threads)
    backend = captioner.backend
    assert isinstance(backend, OnnxBackend)
    parts = [
        backend.encode(photos[at : at + BATCH]).tensors() for at in range(0, min(len(photos), ENCODED_PHOTOS), BATCH)
    ]
    encoded = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    search = captioner.spec.search
    return Quality(encoded, {beam: captions_of(captioner, photos, search.plain(beam)) for beam in BEAMS})


def row(
    name: str, found: Quality, fp32: Quality, references: Sequence[Sequence[str]], megabytes: float, speed: str
) -> str:
    """A row of the table."""
    errors = [
        np.linalg.norm(value - fp32.encoded[key]) / np.linalg.norm(fp32.encoded[key])
        for key, value in found.encoded.items()
    ]
    cells = [name, f"{100 * np.mean(errors):.1f}%"]
    for beam in BEAMS:
        scores = score(found.captions[beam], references)
        same = sum(one == other for one, other in zip(found.captions[beam], fp32.captions[beam], strict=True))
        cells += [
            f"{100 * scores['cider']:.1f}",
            f"{100 * scores['bleu_4']:.1f}",
            f"{100 * same / len(references):.0f}%",
        ]
    return f"| {' | '.join([*cells, f'{megabytes:.1f}', speed])} |"


def graphs_megabytes(bundle: Bundle, precision: str) -> float:
    """Of both graphs' files."""
    files = bundle.manifest.precisions[precision]
    return sum(bundle.manifest.files[file].bytes for file in (files.encoder, files.decoder)) / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset with train and dev")
    parser.add_argument("--checkpoint", type=Path, help="of another model than the installed one")
    parser.add_argument("--photos", type=int, default=1000, help="of dev to score [1000]")
    parser.add_argument("--threads", type=int, default=1, help="for scoring; speed is of one [1]")
    arguments = parser.parse_args()
    if arguments.photos < 2:
        parser.error("--photos takes 2 or more: CIDEr weighs words by how many photos they are said of")
    dataset = load_dataset(arguments.data)
    train = [example for example in dataset.examples if example.split == "train"]
    dev = dataset.split("dev")[: arguments.photos]
    with tempfile.TemporaryDirectory(prefix="precision-") as folder:
        bundle = fp32_bundle(arguments.checkpoint, Path(folder) / "bundle")
        evidence = evidence_of(bundle.manifest.image, train, dev)
        timed = evidence.scored[:TIMED_PHOTOS]
        print(
            f"{platform.machine()}, {bundle.manifest.name}, {len(evidence.calibration)} training photos, "
            f"{len(dev)} dev photos; CIDEr and BLEU-4 x100\n"
        )
        print(
            "| graphs | encoder error | greedy: CIDEr | BLEU-4 | as fp32 | beam 3: CIDEr | BLEU-4 | as fp32 | MB | "
            "photos/s (fp32 in turn) | calibrated in s |"
        )
        print("|" + " --- |" * 11)
        fp32 = quality(bundle, FULL_PRECISION, evidence.scored, arguments.threads)
        size = graphs_megabytes(bundle, FULL_PRECISION)
        print(row("fp32", fp32, fp32, evidence.references, size, " | "), flush=True)
        for calibration in CALIBRATIONS:
            began = time.perf_counter()
            bundle = with_int8(bundle, evidence, calibration)
            took = time.perf_counter() - began
            found = quality(bundle, "int8", evidence.scored, arguments.threads)
            rates = photos_per_second([captioner_of(bundle, name, 1) for name in (FULL_PRECISION, "int8")], timed)
            speed = f"{rates[1]:.1f} ({rates[0]:.1f}), {rates[1] / rates[0]:.2f}x | {took:.0f}"
            size = graphs_megabytes(bundle, "int8")
            print(row(f"int8, {calibration}", found, fp32, evidence.references, size, speed), flush=True)


if __name__ == "__main__":
    main()
