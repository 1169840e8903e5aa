"""Compares int8 calibrations: their effect on the encoder, on captions and on speed.

    python bench/precision.py --data flickr8k
    python bench/precision.py --data flickr8k --checkpoint runs/a/best.pt --photos 200

int8 graphs are those of `captioner export --precision int8`, calibrated on training photos and compared with fp32 on
dev photos. The encoder's error is the relative error of its outputs in the Euclidean norm, averaged
over the outputs. Speed is that of one photo at a time, from uint8 array to caption, with one thread and the model's own
search; fp32 and int8 take turns, and the ratio is that of their best turns.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from harness.command_line import command_line, machine
from harness.tables import header, row

from capexport.export import ExportRequest, export
from capexport.quantization.acceptance import TIMED_PHOTOS, Evidence, captions_of, evidence_of, photos_per_second
from capexport.quantization.int8 import write_int8
from caprun.bundle.manifest import FULL_PRECISION
from caprun.bundle.reading import Bundle, read_bundle
from caprun.bundle.writing import write_manifest
from caprun.engine import Captioner, packaged_bundle
from caprun.inference.session import OnnxBackend
from captioner.config.export import Calibration
from captioner.datasets import load_dataset
from captioner.evaluation.metrics import score

CALIBRATIONS: tuple[Calibration, ...] = ("mse", "minmax", "entropy", "percentile")
BEAMS = (1, 3)
ENCODED_PHOTOS, BATCH = 64, 16


@dataclass(frozen=True)
class Quality:
    """Encoder outputs and captions of a precision."""

    encoded: dict[str, npt.NDArray[np.float32]]
    captions: dict[int, list[str]]
    """Captions by beam size."""


def fp32_bundle(checkpoint: Path | None, directory: Path) -> Bundle:
    """Exports a checkpoint to fp32 graphs, or copies those of the packaged bundle."""
    if checkpoint is not None:
        export(ExportRequest(checkpoint, "onnx", directory, "bench"), lambda _: None)
        return read_bundle(directory)
    installed = read_bundle(packaged_bundle())
    fp32 = installed.manifest.precisions[FULL_PRECISION]
    directory.mkdir()
    for file in (fp32.encoder, fp32.decoder):
        shutil.copy(installed.path / file, directory)
    write_manifest(directory, replace(installed.manifest, precisions={FULL_PRECISION: fp32}), installed.vocabulary, "")
    return read_bundle(directory)


def with_int8(bundle: Bundle, evidence: Evidence, calibration: Calibration) -> Bundle:
    """Writes int8 graphs into the bundle, replacing earlier ones."""
    precisions = {
        FULL_PRECISION: bundle.manifest.precisions[FULL_PRECISION],
        "int8": write_int8(bundle, evidence.calibration, calibration),
    }
    write_manifest(bundle.path, replace(bundle.manifest, precisions=precisions), bundle.vocabulary, "")
    return read_bundle(bundle.path)


def captioner_of(bundle: Bundle, precision: str, threads: int) -> Captioner:
    """Loads a precision on the CPU."""
    return Captioner(bundle.manifest, bundle.vocabulary, OnnxBackend(bundle, "cpu", threads, precision))


def quality(bundle: Bundle, precision: str, photos: npt.NDArray[np.uint8], threads: int) -> Quality:
    """Encodes and captions photos."""
    captioner = captioner_of(bundle, precision, threads)
    backend = captioner.backend
    assert isinstance(backend, OnnxBackend)
    parts = [
        backend.encode(photos[at : at + BATCH]).tensors() for at in range(0, min(len(photos), ENCODED_PHOTOS), BATCH)
    ]
    encoded = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    search = captioner.spec.search
    return Quality(encoded, {beam: captions_of(captioner, photos, search.plain(beam)) for beam in BEAMS})


def quality_row(
    name: str,
    found: Quality,
    fp32: Quality,
    references: Sequence[Sequence[str]],
    megabytes: float,
    speed: Sequence[str],
) -> str:
    """Formats a row of the table."""
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
    return row(*cells, f"{megabytes:.1f}", *speed)


def graphs_megabytes(bundle: Bundle, precision: str) -> float:
    """Returns the size of both graphs in MB."""
    files = bundle.manifest.precisions[precision]
    return sum(bundle.manifest.files[file].bytes for file in (files.encoder, files.decoder)) / 1e6


def main() -> None:
    """Prints a row for fp32 and for each calibration."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Captioned photos with train and dev splits.")
    parser.add_argument("--checkpoint", type=Path, help="Checkpoint of a model.  [default: the packaged model]")
    parser.add_argument("--photos", type=int, default=1000, help="Dev photos to score; 2 or more.  [default: 1000]")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for scoring; timing uses 1.  [default: 1]")
    arguments = parser.parse_args()
    if arguments.photos < 2:
        parser.error("--photos must be 2 or more, because CIDEr weighs words by the number of photos they occur in.")
    dataset = load_dataset(arguments.data)
    train = [example for example in dataset.examples if example.split == "train"]
    dev = dataset.split("dev")[: arguments.photos]
    with tempfile.TemporaryDirectory(prefix="precision-") as folder:
        bundle = fp32_bundle(arguments.checkpoint, Path(folder) / "bundle")
        evidence = evidence_of(bundle.manifest.image, train, dev)
        timed = evidence.scored[:TIMED_PHOTOS]
        print(
            f"{machine(['onnxruntime'])}; {bundle.manifest.name}, {len(evidence.calibration)} training photos, "
            f"{len(dev)} dev photos; CIDEr and BLEU-4 x100\n"
        )
        searches = [column for beam in BEAMS for column in (f"beam {beam}: CIDEr", "BLEU-4", "captions as fp32")]
        print(header("graphs", "encoder error", *searches, "MB", "photos/s (fp32 in turn)", "calibrated in s"))
        fp32 = quality(bundle, FULL_PRECISION, evidence.scored, arguments.threads)
        size = graphs_megabytes(bundle, FULL_PRECISION)
        print(quality_row("fp32", fp32, fp32, evidence.references, size, ("", "")), flush=True)
        for calibration in CALIBRATIONS:
            began = time.perf_counter()
            bundle = with_int8(bundle, evidence, calibration)
            took = time.perf_counter() - began
            found = quality(bundle, "int8", evidence.scored, arguments.threads)
            rates = photos_per_second([captioner_of(bundle, name, 1) for name in (FULL_PRECISION, "int8")], timed)
            speed = f"{rates[1]:.1f} ({rates[0]:.1f}), {rates[1] / rates[0]:.2f}x", f"{took:.0f}"
            size = graphs_megabytes(bundle, "int8")
            print(quality_row(f"int8, {calibration}", found, fp32, evidence.references, size, speed), flush=True)


if __name__ == "__main__":
    main()
