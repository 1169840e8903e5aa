"""Outliers without objects: flat colours, gradients, noise and patterns."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from capexport.confidence.outliers.canvas import Random, colour, image, size


def flat(rng: Random) -> Image.Image:
    """Draws one colour, as of a lens cap, a white wall or an empty page; some with grain or darker corners."""
    width, height = size(rng)
    pixels = np.empty((height, width, 3), np.float32)
    pixels[:] = colour(rng)
    if rng.random() < 0.3:
        pixels += rng.normal(0, rng.uniform(0.5, 6), (height, width, 1 if rng.random() < 0.5 else 3))
    if rng.random() < 0.3:
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        pixels *= (1 - rng.uniform(0, 0.4) * (x**2 + y**2))[..., None]
    return image(pixels)


def gradient(rng: Random) -> Image.Image:
    """Draws a gradient of two to four colours: along a line, outwards, or around."""
    width, height = size(rng)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    form = rng.integers(4)
    if form == 0:
        x0, y0 = rng.uniform(-0.7, 0.7, 2)
        along = np.hypot(x - x0, y - y0) / 2
    elif form == 1:
        along = (np.arctan2(y, x) + math.pi) / (2 * math.pi)
    else:
        angle = rng.uniform(0, 2 * math.pi)
        along = (x * math.cos(angle) + y * math.sin(angle)) / (2 * math.sqrt(2)) + 0.5
    colours = np.array([colour(rng) for _ in range(rng.integers(2, 5))], np.float32)
    stops = np.linspace(0, 1, len(colours))
    return image(np.stack([np.interp(along, stops, channel) for channel in colours.T], -1))


def noise(rng: Random) -> Image.Image:
    """Draws every pixel at random, in grey or colour, from one of several distributions."""
    width, height = size(rng)
    shape = (height, width, 1 if rng.random() < 0.4 else 3)
    form = rng.integers(4)
    if form == 0:
        values = rng.uniform(0, 255, shape)
    elif form == 1:
        values = np.array(colour(rng)) + rng.normal(0, rng.uniform(15, 120), shape)
    elif form == 2:
        values = np.where(rng.random(shape) < rng.uniform(0.05, 0.95), 0.0, 255.0)
    else:
        share = rng.uniform(0.02, 0.5)
        ground = np.array(colour(rng), np.float64)
        values = np.where(rng.random((height, width, 1)) < share, rng.choice([0.0, 255.0], shape), ground)
    return image(np.broadcast_to(values, (height, width, 3)))


def clouds(rng: Random) -> Image.Image:
    """Draws noise of larger grain: blocks, blots or clouds, of one scale or several."""
    width, height = size(rng)
    channels = 1 if rng.random() < 0.4 else 3
    scales = [int(rng.integers(2, 90))] if rng.random() < 0.5 else [2, 4, 8, 16, 32, 64, 128]
    resample = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
    values = np.zeros((height, width, channels), np.float32)
    for scale in scales:
        grid = rng.normal(0, 1, (max(2, height // scale), max(2, width // scale), channels)).astype(np.float32)
        for channel in range(channels):
            small = Image.fromarray(np.ascontiguousarray(grid[..., channel]))
            values[..., channel] += scale**0.5 * np.asarray(small.resize((width, height), resample))
    values *= rng.uniform(20, 90) / values.std()
    mean = np.array(colour(rng), np.float32)
    return image(np.broadcast_to(values + mean, (height, width, 3)))


def pattern(rng: Random) -> Image.Image:
    """Draws a repeated pattern (stripes, waves, checks, dots, grids) or a code of blocks or bars."""
    width, height = size(rng)
    y, x = np.mgrid[:height, :width]
    angle = rng.uniform(0, math.pi) if rng.random() < 0.6 else rng.choice([0, math.pi / 2])
    period = rng.uniform(4, max(8, min(width, height) / 2))
    u, v = (x * math.cos(angle) + y * math.sin(angle)) / period, (y * math.cos(angle) - x * math.sin(angle)) / period
    form = rng.integers(7)
    if form == 0:
        on = (u % 1 < rng.uniform(0.2, 0.8)).astype(np.float32)
    elif form == 1:
        on = (np.sin(2 * math.pi * u) + 1) / 2
    elif form == 2:
        on = (np.floor(u) + np.floor(v)) % 2
    elif form == 3:
        on = (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < rng.uniform(0.15, 0.45)).astype(np.float32)
    elif form == 4:
        thick = rng.uniform(0.03, 0.25)
        on = ((u % 1 < thick) | (v % 1 < thick)).astype(np.float32)
    elif form == 5:
        cells = rng.random((int(rng.integers(8, 60)),) * 2) < 0.5
        on = cells[y * len(cells) // height, x * len(cells) // width].astype(np.float32)
    else:
        bars = rng.random(int(rng.integers(20, 120))) < 0.5
        on = bars[x * len(bars) // width].astype(np.float32)
    plain = rng.random() < 0.3  # black on white
    first, second = ((0, 0, 0), (255, 255, 255)) if plain else (colour(rng), colour(rng))
    return image(np.array(first) + on[..., None] * (np.array(second) - np.array(first)))
