"""Selects the photos that a report shows, with their captions, scores and attention maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from caprun.caption import Caption
from caprun.drawing.pictures import heat_picture
from caprun.engine import Captioner
from caprun.errors import ImageError
from caprun.photos.preprocessing import prepare, seen_box
from caprun.photos.reading import open_photo
from caprun.search.options import SearchOptions
from captioner.datasets import Example
from captioner.evaluation.cider import Cider, cider_scores
from captioner.evaluation.ngrams import count, sentence
from captioner.text.metric_words import tokenize

_SIDE, _HEAT_SIDE = 480, 180  # pixels of a photo's long side, and of a heat map's
_QUALITY = 80


@dataclass(frozen=True)
class ShownPhoto:
    """A photo with its caption and score; pictures are data URIs."""

    example: Example
    caption: Caption
    cider: float
    picture: str
    width: int
    height: int
    heats: tuple[str, ...]
    """The photo under the heat map of each word; empty if the model has no attention."""


def shown_groups(
    captioner: Captioner, options: SearchOptions, examples: Sequence[Example], captions: Sequence[str], photos: int
) -> dict[str, list[ShownPhoto]]:
    """Selects the photos with the best and the worst CIDEr, and some from the whole split.

    Photos that can no longer be read are left out.

    Args:
        captioner: the model; it captions the selected photos again to get its attention.
        options: the options of the search.
        examples: the photos of the split.
        captions: one caption per photo.
        photos: maximum number of photos, a third of them in each group.

    Returns:
        The photos of each group by its title.
    """
    references = [[tokenize(reference) for reference in example.references] for example in examples]
    counted = count([tokenize(caption) for caption in captions], references)
    measure = Cider(photo.references for photo in counted)
    order = np.argsort(-cider_scores(counted), kind="stable").tolist()
    if len(examples) <= photos:
        chosen = {"All photos, best first": order}
    else:
        each = max(1, photos // 3)
        rest = sorted(order[each:-each])
        places = np.linspace(0, len(rest) - 1, max(0, min(len(rest), photos - 2 * each))).astype(int)
        chosen = {
            "Best by CIDEr": order[:each],
            "Worst by CIDEr": order[: -each - 1 : -1],
            "From the whole split": [rest[place] for place in places],
        }
    groups: dict[str, list[ShownPhoto]] = {}
    for title, indices in chosen.items():
        for index in indices:
            try:
                photo = open_photo(examples[index].image, at_least=captioner.spec.image.at_least)
            except ImageError:
                continue
            images = prepare(photo, captioner.spec.image)[None]
            attends = captioner.spec.attention_grid is not None
            caption = captioner.caption_arrays(images, options, alpha=attends)[0]
            score = measure.scores([sentence(tokenize(caption.text))], counted[index].references)[0]
            groups.setdefault(title, []).append(_shown(examples[index], photo, caption, score, captioner))
    return groups


def data_uri(content: bytes, kind: str) -> str:
    """Returns an image as a data URI; `kind` is `png` or `jpeg`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _shown(example: Example, photo: Image.Image, caption: Caption, cider: float, captioner: Captioner) -> ShownPhoto:
    box = seen_box(photo.size, captioner.spec.image)
    small = photo.copy()
    small.thumbnail((_SIDE, _SIDE))
    side = min(_HEAT_SIDE, max(small.size))
    alphas = [word.alpha for word in caption.words if word.alpha is not None]
    heats = tuple(_jpeg(heat_picture(small, alpha, region_box=box, side=side)) for alpha in alphas)
    return ShownPhoto(example, caption, cider, _jpeg(small), small.width, small.height, heats)


def _jpeg(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=_QUALITY)
    return data_uri(content.getvalue(), "jpeg")
