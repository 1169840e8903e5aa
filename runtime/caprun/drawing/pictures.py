"""Pictures of a caption: the photo with its caption below it, and a heat map for each word."""

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from caprun.drawing.fonts import FontFile, direction_of, find_font

_PAPER = (255, 255, 255)
_INK = (28, 28, 32)
_BEHIND_PHOTO = (238, 238, 240)  # padding around a photo that is smaller than its place

_LONGEST_SIDE = 1024
_SHORTEST_LONG_SIDE = 480
_PANEL_SIDE = 300
_PANEL_LEAST = 96
_MARGIN = 20

# From low to high attention: dark violet, crimson, orange, pale yellow. Lightness only rises, so the scale also reads
# correctly in greyscale and for colour-blind people.
_HEAT_COLOURS = np.array([(66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (255, 232, 130)], np.float32)
_HEAT_OPACITY = np.array([0.0, 0.45, 0.64, 0.76, 0.84], np.float32)


def caption_picture(photo: Image.Image, caption: str, *, font: FontFile = None) -> Image.Image:
    """Draws the photo with its caption below it, centred on white and wrapped, as an RGB image.

    The photo's long side is scaled to between 480 and 1024 pixels.

    Args:
        photo: The photo, upright RGB as from `caprun.photos.reading.open_photo`.
        caption: The caption.
        font: A font file; None for Pillow's default font, or a system font that has the letters.

    Raises:
        UsageError: The font cannot be read or has no glyph for a letter, or Pillow cannot draw right-to-left text.
    """
    longest = max(photo.size)
    photo = _scale(photo, min(max(longest, _SHORTEST_LONG_SIDE), _LONGEST_SIDE) / longest)
    width = max(photo.width, _SHORTEST_LONG_SIDE)
    text_size = round(width / 28) if width > 700 else max(18, round(width / 24))
    text = _tidy(caption)
    face = find_font(text, text_size, font)
    direction = direction_of(text)
    lines = _wrap(text, face, width - 4 * _MARGIN)
    line_height = _line_height(face)
    picture = Image.new("RGB", (width, photo.height + 2 * _MARGIN + line_height * len(lines)), _PAPER)
    if photo.width < width:
        picture.paste(_BEHIND_PHOTO, (0, 0, width, photo.height))
    picture.paste(photo, ((width - photo.width) // 2, 0))
    draw = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        centre_top = (width / 2, photo.height + _MARGIN + line_height * index)
        draw.text(centre_top, line, fill=_INK, font=face, anchor="ma", direction=direction)
    return picture


def attention_picture(
    photo: Image.Image,
    words: Sequence[tuple[str, npt.NDArray[np.float32]]],
    *,
    region_box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    font: FontFile = None,
) -> Image.Image:
    """Draws a grid of panels in reading order: the photo, then for each word the photo under the word's heat map.

    Colours are scaled for each word: the mean weight is transparent and the largest weight is brightest. If the largest
    weight is below three times the mean, it is less bright, so evenly spread attention leaves the photo unchanged.

    Args:
        photo: The photo, upright RGB as from `caprun.photos.reading.open_photo`.
        words: Each word with its alpha, the attention weights of the regions; float (grid_height, grid_width), >= 0.
        region_box: The part of the photo that the encoder saw, (left, top, right, bottom) as fractions of its size;
            see `caprun.photos.preprocessing.seen_box`. The grid covers this part, and the rest is darkened.
        font: A font file; None for Pillow's default font, or a system font that has the letters.

    Returns:
        An RGB image.

    Raises:
        UsageError: The font cannot be read or has no glyph for a letter, or Pillow cannot draw right-to-left text.
    """
    photo = _scale(photo, _PANEL_SIDE / max(photo.size))
    labels = [_tidy(word) for word, _ in words]
    text_size = 22
    face = find_font("".join(labels), text_size, font)
    widest = max((face.getlength(label) for label in labels), default=0.0)
    width = max(photo.width, _PANEL_LEAST, min(math.ceil(widest), 2 * _PANEL_SIDE))
    height = max(photo.height, _PANEL_LEAST)
    label_height = _line_height(face) + 8
    # columns that make a picture of about 3:2
    across = round(math.sqrt(1.5 * (1 + len(words)) * (height + label_height + _MARGIN) / (width + _MARGIN)))
    across = min(max(1, across), 1 + len(words))
    down = math.ceil((1 + len(words)) / across)
    canvas = (_MARGIN + across * (width + _MARGIN), _MARGIN + down * (height + label_height + _MARGIN))
    picture = Image.new("RGB", canvas, _PAPER)
    draw = ImageDraw.Draw(picture)
    mirrored = direction_of(" ".join(labels)) == "rtl"
    backdrop = _mute(photo, region_box)
    panels = [("", photo)] + [
        (label, _heat(backdrop, alpha, region_box)) for label, (_, alpha) in zip(labels, words, strict=True)
    ]
    for index, (label, panel) in enumerate(panels):
        column = across - 1 - index % across if mirrored else index % across
        x = _MARGIN + column * (width + _MARGIN)
        y = _MARGIN + index // across * (height + label_height + _MARGIN)
        if panel.size != (width, height):
            picture.paste(_BEHIND_PHOTO, (x, y, x + width, y + height))
        picture.paste(panel, (x + (width - panel.width) // 2, y + (height - panel.height) // 2))
        own_face = face
        if (length := face.getlength(label)) > width:
            own_face = find_font(label, max(1, int(text_size * width / length)), font)
        draw.text((x + width / 2, y + height + 8), label, fill=_INK, font=own_face, anchor="ma")
    return picture


def heat_picture(
    photo: Image.Image,
    alpha: npt.NDArray[np.float32],
    *,
    region_box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    side: int = _PANEL_SIDE,
) -> Image.Image:
    """Draws the photo under one heat map, as in a panel of `attention_picture`; its long side has `side` pixels.

    `photo` is an image from `open_photo`.
    """
    return _heat(_mute(_scale(photo, side / max(photo.size)), region_box), alpha, region_box)


def _scale(photo: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(photo.width * factor)), max(1, round(photo.height * factor)))
    return photo if size == photo.size else photo.resize(size, Image.Resampling.LANCZOS)


def _tidy(text: str) -> str:
    """Puts a text on one line and composes accented letters (NFC), since more fonts have the composed form."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _line_height(face: ImageFont.FreeTypeFont) -> int:
    ascent, descent = face.getmetrics()
    return round((ascent + descent) * 1.15)


def _wrap(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Wraps a text into lines of at most `width` pixels; breaks a word only if it does not fit on a line."""
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if face.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = ""
        for letter in word:
            attached = unicodedata.category(letter)[0] == "M"  # a combining mark
            if line and not attached and face.getlength(line + letter) > width:
                lines.append(line)
                line = ""
            line += letter
    return [*lines, line]


def _pixel_box(size: tuple[int, int], region_box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Converts `region_box` to whole pixels, at least 1 x 1."""
    width, height = size
    left, top = min(round(region_box[0] * width), width - 1), min(round(region_box[1] * height), height - 1)
    right, bottom = max(round(region_box[2] * width), left + 1), max(round(region_box[3] * height), top + 1)
    return left, top, right, bottom


def _mute(photo: Image.Image, region_box: tuple[float, float, float, float]) -> Image.Image:
    """Mutes the photo so that the heat map stands out, and darkens the part that the encoder did not see."""
    muted = Image.blend(photo, photo.convert("L").convert("RGB"), 0.55).point(lambda value: value * 0.85)
    dark = muted.point(lambda value: value * 0.3)
    box = _pixel_box(photo.size, region_box)
    dark.paste(muted.crop(box), box[:2])
    return dark


def _heat(
    backdrop: Image.Image, alpha: npt.NDArray[np.float32], region_box: tuple[float, float, float, float]
) -> Image.Image:
    box = _pixel_box(backdrop.size, region_box)
    warmth = _warmth(alpha, (box[2] - box[0], box[3] - box[1]))
    stops = np.linspace(0, 1, len(_HEAT_OPACITY))
    opacity = np.interp(warmth, stops, _HEAT_OPACITY)[..., None]
    colour = np.stack([np.interp(warmth, stops, channel) for channel in _HEAT_COLOURS.T], axis=-1)
    seen = np.asarray(backdrop.crop(box), np.float32)
    picture = backdrop.copy()
    picture.paste(Image.fromarray(np.rint(seen + opacity * (colour - seen)).astype(np.uint8)), box[:2])
    return picture


def _warmth(alpha: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Scales weights to heat of `size` (width, height): 0 up to the mean, at most 1; float32 (height, width)."""
    weights = np.nan_to_num(alpha.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    mean, most = float(weights.mean()), float(weights.max())
    if most <= mean:
        return np.zeros((size[1], size[0]), np.float32)
    above = ((weights - mean) / (most - mean)).clip(min=0)
    # Bicubic resizing alone leaves the grid visible; a blur of a third of a cell removes it.
    cell = min(size[0] / alpha.shape[1], size[1] / alpha.shape[0])
    grey = Image.fromarray(np.rint(above * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    smooth = np.asarray(grey.filter(ImageFilter.GaussianBlur(cell / 3)), np.float32)
    return smooth / max(float(smooth.max()), 1.0) * min((most / mean - 1) / 2, 1.0)
