"""One photo, file to caption, warm: this runtime against the same checkpoint in eager PyTorch, run the usual way.

    python bench/single_image.py                       # examples/, one thread
    python bench/single_image.py --photos DIR --threads 2

The peer is what the field's repositories do with a trained model: PIL, torchvision transforms, `eval`,
`inference_mode`, a Python loop over steps, the attention's keys projected anew at every step, the photo's features
repeated for every beam. All take turns, photo by photo, so that a slow moment of the machine hits all. Every precision
of the bundle is timed, and it is counted how many captions are the peer's.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from caprun import Captioner, SearchOptions
from caprun.bundle.reading import read_bundle
from caprun.engine import packaged_bundle
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import Checkpoint, build_model, load_checkpoint

ROOT = Path(__file__).parents[1]
BEAMS = (1, 3)


class EagerCaptioner:
    """A checkpoint in PyTorch as public captioning repositories run it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model: CaptionModel = build_model(checkpoint).eval()
        encoder = self.model.encoder
        self.pieces, self.special = checkpoint.vocabulary.pieces, checkpoint.special
        self.transform = transforms.Compose(
            [
                transforms.Resize(encoder.size, transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(encoder.mean, encoder.std),
            ]
        )

    @torch.inference_mode()
    def caption(self, path: str, options: SearchOptions) -> str:
        """Beam search over one photo."""
        pixels = self.transform(Image.open(path).convert("RGB")).unsqueeze(0)
        regions = self.model.project(self.model.encoder.features(pixels).flatten(2).transpose(1, 2))
        mean = regions.mean(1)
        width, longest, penalty = options.beam_size, options.max_length, options.length_penalty
        units = self.model.decoder.units
        hidden = torch.tanh(self.model.initial_hidden(mean)).view(1, units)
        cell = self.model.initial_cell(mean).view(1, units)
        total = torch.zeros(1)
        said = torch.full((1, 1), self.special.start)
        best_score, best = -float("inf"), said[0]
        for length in range(1, longest + 1):
            beams = len(said)
            logits, hidden, cell = self.step(said[:, -1], hidden, cell, regions.expand(beams, -1, -1))
            log_prob = torch.log_softmax(logits + self.model.unsaid, dim=1)
            total, index = (total[:, None] + log_prob).flatten().topk(width)
            beam, token = index // log_prob.shape[1], index % log_prob.shape[1]
            said, hidden, cell = torch.cat([said[beam], token[:, None]], 1), hidden[beam], cell[beam]
            for ended in torch.nonzero(token == self.special.end).flatten().tolist():
                score = float(total[ended]) / length**penalty
                if score > best_score:
                    best_score, best = score, said[ended, :-1]
            live = token != self.special.end
            if not live.any() or float(total[live].max()) / longest**penalty <= best_score:
                break
            said, hidden, cell, total = said[live], hidden[live], cell[live], total[live]
        else:
            if best_score == -float("inf"):
                best = said[total.argmax()]
        return " ".join(self.pieces[index] for index in best[1:].tolist())

    def step(self, token: Tensor, hidden: Tensor, cell: Tensor, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of every beam, each with its own copy of the regions."""
        decoder = self.model.decoder
        attention = decoder.attention
        keys = attention.key(regions)  # at every step: the usual way
        scores = attention.score(torch.tanh(keys + attention.query(hidden).unsqueeze(1))).squeeze(2)
        alpha = torch.softmax(scores, dim=1)
        context = torch.sigmoid(attention.gate(hidden)) * (alpha.unsqueeze(2) * regions).sum(1)
        word = decoder.embedding(token)
        (recurrent,) = decoder.hidden_gates
        gates = decoder.word_gates(word) + decoder.context_gates(context) + recurrent(hidden)
        i, f, g, o = gates.chunk(4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        logits = decoder.output(word + decoder.output_hidden(hidden) + decoder.output_context(context))
        return logits, hidden, cell


def milliseconds(work: Callable[[], str]) -> tuple[str, float]:
    """What the work returns, and how long it took."""
    began = time.perf_counter()
    result = work()
    return result, 1000 * (time.perf_counter() - began)


def compare(
    ours: Mapping[str, Captioner], theirs: EagerCaptioner, photos: list[str], beam: int, rounds: int
) -> Iterator[str]:
    """Time the precisions and the peer on every photo, in turns; rows of the table."""
    spec = next(iter(ours.values())).spec
    options = SearchOptions(beam, spec.search.max_length, spec.search.length_penalty)
    peer_times: list[float] = []
    times: dict[str, list[float]] = {precision: [] for precision in ours}
    same = dict.fromkeys(ours, 0)
    for turn in range(rounds + 1):
        for photo in photos:
            expected, peer_time = milliseconds(lambda photo=photo: theirs.caption(photo, options))
            found = {
                precision: milliseconds(lambda photo=photo, one=one: one.caption(photo, options).text)
                for precision, one in ours.items()
            }
            for precision, (text, taken) in found.items():
                if turn == 0:  # warm-up, and the comparison of captions
                    same[precision] += text == expected
                else:
                    times[precision].append(taken)
            if turn:
                peer_times.append(peer_time)
    kind = "greedy" if beam == 1 else f"beam {beam}"
    for precision, taken in times.items():
        low, middle, high = statistics.quantiles([b / a for a, b in zip(taken, peer_times, strict=True)], n=4)
        yield (
            f"| {kind}, {precision} | {statistics.median(taken):.1f} | {statistics.median(peer_times):.1f} | "
            f"{middle:.2f} ({low:.2f} to {high:.2f}) | {same[precision]} of {len(photos)} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "examples", help="folder of .jpg files")
    parser.add_argument("--bundle", type=Path, default=None, help="the packaged one by default")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "weights" / "checkpoints" / "everyday_lite2.pt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    photos = sorted(str(path) for path in arguments.photos.glob("*.jpg"))
    path = arguments.bundle or packaged_bundle()
    ours = {
        precision: Captioner.load(path, device="cpu", threads=arguments.threads, precision=precision)
        for precision in read_bundle(path).manifest.precisions
    }
    theirs = EagerCaptioner(load_checkpoint(arguments.checkpoint))
    # the peer knows one layer of soft attention
    assert isinstance(theirs.model.decoder.hidden_gates, nn.ModuleList)
    print(f"{len(photos)} photos, {arguments.threads} thread(s), {platform.machine()}, torch {torch.__version__}")
    print("| search | caprun, ms | eager PyTorch, ms | ratio (quartiles) | same captions |")
    print("| --- | --- | --- | --- | --- |")
    for beam in BEAMS:
        for row in compare(ours, theirs, photos, beam, arguments.rounds):
            print(row, flush=True)


if __name__ == "__main__":
    main()
