"""The contenders of `bench/peers.py`: how each is built, and the packages it needs.

Each is built in a separate process, so heavy packages are imported where they are used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
# the folders of the wheel, which has no checkpoints
OUR_FOLDERS = tuple(ROOT / f for f in ("captioner", "export/capexport", "runtime/caprun", "weights/caprun_weights"))


class Captioned(NamedTuple):
    """A contender's caption of a photo."""

    text: str | None
    """None for random weights."""
    steps: int
    """Steps of the decoder."""


class Sources(NamedTuple):
    """Paths that contenders are built from."""

    bundle: Path
    checkpoint: Path
    torchscript: Path
    """A bundle that `captioner export --format torchscript` wrote."""


CaptionPhoto = Callable[[str, int, int], Captioned]
"""Captions a photo: path, beam size, and the number of steps that contenders with random weights take."""


class Contender(NamedTuple):
    """A row of the table."""

    title: str
    build: Callable[[Sources, int], CaptionPhoto]
    """Builds the contender from the sources and a number of threads."""
    requirements: tuple[str, ...]
    folders: tuple[Path, ...] = ()


def precisions(bundle: Path) -> list[str]:
    """Returns the precisions of a bundle. fp32 comes first, as the others are compared with its captions."""
    from caprun.bundle.manifest import FULL_PRECISION
    from caprun.bundle.reading import read_bundle

    return sorted(read_bundle(bundle).manifest.precisions, key=lambda name: name != FULL_PRECISION)


def contenders(bundle: Path) -> dict[str, Contender]:
    """Returns all contenders by name, ours first."""
    ours = ("numpy", "pillow", "click", "onnxruntime")
    found = {}
    for name in precisions(bundle):
        build = lambda sources, threads, name=name: _caprun(sources.bundle, threads, name)  # noqa: E731
        found[f"caprun-{name}"] = Contender(f"caprun, {name}", build, ours, OUR_FOLDERS)
    eager = ("torch", "torchvision", "timm", "numpy", "pillow", "click")
    script = ("torch", "numpy", "pillow", "click")
    return found | {
        "eager": Contender("eager PyTorch, our weights", _eager, eager, OUR_FOLDERS[:1]),
        "torchscript": Contender("TorchScript, our weights", _torchscript, script, OUR_FOLDERS[:3]),
        "sgrvinod": Contender(
            "sgrvinod-style ResNet-101, 14x14 regions", _sgrvinod, ("torch", "torchvision", "pillow")
        ),
        "vit-gpt2": Contender(
            "Hugging Face ViT-GPT2", lambda _, threads: _hugging_face("vit_gpt2", threads), HUGGING_FACE
        ),
        "blip-base": Contender(
            "Hugging Face BLIP-base", lambda _, threads: _hugging_face("blip_base", threads), HUGGING_FACE
        ),
    }


HUGGING_FACE = ("transformers", "torch", "torchvision", "pillow")


def _runtime(captioner: Any) -> CaptionPhoto:
    from harness.plain_search import without_bans

    from caprun.photos.preprocessing import load

    def caption(path: str, beams: int, steps: int) -> Captioned:
        del steps
        options = without_bans(captioner.spec.search, beams)  # the other contenders have no bans
        (found,) = captioner.hypotheses(load(path, captioner.spec.image)[None], options)
        # one step per piece, and one for END
        return Captioned(captioner.vocabulary.text(found.ids), len(found.ids) + found.finished)

    return caption


def _caprun(bundle: Path, threads: int, precision: str) -> CaptionPhoto:
    from caprun import Captioner

    return _runtime(Captioner.load(bundle, device="cpu", threads=threads, precision=precision))


def _torch(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _eager(sources: Sources, threads: int) -> CaptionPhoto:
    from harness.plain_search import without_bans

    from caprun import SearchOptions
    from captioner.models.checkpoint import load_checkpoint
    from peers.eager import EagerCaptioner

    _torch(threads)
    checkpoint = load_checkpoint(sources.checkpoint)
    model = EagerCaptioner(checkpoint)
    search: SearchOptions = checkpoint.config.search

    def caption(path: str, beams: int, steps: int) -> Captioned:
        text = model.caption(path, without_bans(search, beams))
        return Captioned(text, steps)

    return caption


def _torchscript(sources: Sources, threads: int) -> CaptionPhoto:
    from captioner.backends.loading import load_captioner

    _torch(threads)
    return _runtime(load_captioner(sources.torchscript))


def _sgrvinod(sources: Sources, threads: int) -> CaptionPhoto:
    import json

    import torch

    from peers.sgrvinod import TutorialCaptioner

    _torch(threads)
    torch.manual_seed(0)
    pieces = len(json.loads((sources.bundle / "vocab.json").read_bytes())["pieces"])
    model = TutorialCaptioner(pieces).eval()
    return lambda path, beams, steps: Captioned(None, len(model.caption(path, beams, steps)))


def _hugging_face(name: str, threads: int) -> CaptionPhoto:
    from peers import hugging_face

    _torch(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    caption = getattr(hugging_face, name)()

    def held(path: str, beams: int, steps: int) -> Captioned:
        # the start token is not generated
        return Captioned(None, caption(path, beams, steps).shape[1] - 1)

    return held
