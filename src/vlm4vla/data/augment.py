"""Changes of pictures: what training does to them at random, and the fixed crop that goes with a random one.

All take and give (H, W, 3) uint8 pictures and return new arrays. The colours follow TensorFlow's image operations as
OpenVLA uses them through dlimp (kvablack/dlimp ``dlimp/augmentations.py``; strengths and order in openvla's
``prismatic/vla/datasets/datasets.py``). Two things are meant to differ: dlimp draws all its numbers from one seed, so
that its windows lie on the diagonal and its colours change together, while here every number is drawn by itself; and
its crop samples from corner to corner, while here pixels are areas, as everywhere else in this house.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import PIL.Image

from vlm4vla.schemas import AugmentConfig
from vlm4vla.types import Image

_BLOCK = 8192  # pixels whose float planes stay in a core's cache: twice as fast as the whole picture at once
_BLACK = np.float32(1e-9)


def draw(config: AugmentConfig, generator: np.random.Generator) -> Callable[[Image], Image]:
    """One random change, for all pictures that are to be changed alike: shift, crop, then the four colour changes.

    The generator is asked for the offsets of the shift, those of the crop and the colours, in this order; what is
    switched off draws nothing.
    """
    steps: list[Callable[[Image], Image]] = []
    if config.shift:
        down, right = (int(x) - config.shift for x in generator.integers(0, 2 * config.shift + 1, size=2))
        steps.append(partial(shift, down=down, right=right))
    if config.crop is not None:
        down, right = generator.random(2)
        steps.append(partial(crop, area=config.crop, down=down, right=right))
    limits = (config.brightness, config.contrast, config.saturation, config.hue)
    if any(limits):
        delta, contrast, saturation, turn = generator.uniform(-1.0, 1.0, 4) * limits
        steps.append(partial(recolour, delta=delta, contrast=1 + contrast, saturation=1 + saturation, turn=turn))
    return partial(_apply, steps)


def _apply(steps: Sequence[Callable[[Image], Image]], image: Image) -> Image:
    if not steps:
        return image.copy()
    for step in steps:
        image = step(image)
    return image


def shift(image: Image, down: int, right: int) -> Image:
    """The picture seen through a window that moved by so many pixels; beyond the edges, these are repeated.

    With both offsets uniform in -pad..pad this is DrQ's random shift (Kostrikov et al., Image Augmentation Is All You
    Need, 2020), which pads by ``pad`` replicated pixels and cuts a window out.
    """
    height, width = image.shape[:2]
    # Clamped indices are the padding and the cut in one; two takes are several times as fast as np.pad.
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    shifted: Image = image.take(rows, axis=0).take(columns, axis=1)
    return shifted


def crop(image: Image, area: float, down: float, right: float) -> Image:
    """The window with ``area`` of the picture and its aspect ratio, resized back to (H, W): bilinear, as in dlimp.

    ``down`` and ``right`` in [0, 1] place it: 0 at the top left, 1 at the bottom right. Its edges may lie inside
    pixels, which then count by the part that is inside.
    """
    height, width = image.shape[:2]
    side = math.sqrt(area)
    left, top = right * (1 - side) * width, down * (1 - side) * height
    box = (left, top, min(left + side * width, width), min(top + side * height, height))
    return np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR, box=box))


def center_crop(image: Image, area: float) -> Image:
    """What a policy acts on that was trained on random crops of ``area``: the middle window, at the same scale."""
    return crop(image, area, 0.5, 0.5)


def recolour(image: Image, delta: float, contrast: float, saturation: float, turn: float) -> Image:
    """Brightness, contrast, saturation and hue, in this order, on values in [0, 1] that are cut there after each step.

    ``delta`` is added to all channels (``adjust_brightness``); each channel's distance from its mean over the picture
    is multiplied by ``contrast`` (``adjust_contrast``); the saturation of HSV is multiplied by ``saturation``
    (``adjust_saturation``); its hue is turned by ``turn`` circles, at most 1/6 either way (``adjust_hue``). Back to
    uint8 by cutting x * 255.5 down (``convert_image_dtype``), so that no change gives the picture itself.
    """
    assert abs(turn) <= 1 / 6, "the hue formula below holds for one sixth of the circle"
    table = _brightness_and_contrast(image, delta, contrast)
    pixels = image.reshape(-1, 3)
    changed = np.empty_like(pixels)
    for first in range(0, len(pixels), _BLOCK):
        part = slice(first, first + _BLOCK)
        planes = tuple(table[channel].take(pixels[part, channel]) for channel in range(3))
        _saturation_and_hue(planes, np.float32(saturation), np.float32(6 * turn), changed[part])
    return changed.reshape(image.shape)


def _brightness_and_contrast(image: Image, delta: float, contrast: float) -> npt.NDArray[np.float32]:
    """(3, 256): what these two make of each value of each channel; the means come from the histogram."""
    counts = np.asarray(PIL.Image.fromarray(image).histogram()).reshape(3, 256)
    levels = np.clip(np.arange(256) / 255 + delta, 0, 1)
    means = (counts @ levels / counts.sum(axis=1))[:, None]
    return np.asarray(np.clip((levels - means) * contrast + means, 0, 1), np.float32)


def _saturation_and_hue(
    planes: tuple[npt.NDArray[np.float32], ...], saturation: np.float32, sixths: np.float32, out: Image
) -> None:
    """From three planes (N,) in [0, 1] to ``out`` (N, 3) uint8, without going through HSV: both keep its value.

    With V the largest channel, C = V - the smallest and h the hue in sixths of the circle, a channel is V - C * (1 - w)
    where w = clip(abs(abs(h - centre) - 3) - 1, 0, 1) and its centre is 0 for red, 2 for green and 4 for blue. Below,
    h and w are multiplied by C, which spares the divisions. Saturation multiplies C, up to V. ``planes`` is used up.
    """
    red, green, blue = planes
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    twice = chroma + chroma
    thrice = twice + chroma
    hue = np.where(green == value, blue - red + twice, red - green + twice + twice)
    np.copyto(hue, green - blue, where=red == value)
    hue += sixths * chroma
    gain = saturation if saturation <= 1 else np.minimum(saturation, value / np.maximum(chroma, _BLACK))
    gain = gain * np.float32(255.5)
    value *= np.float32(255.5)
    x = red
    for channel in range(3):
        np.abs(hue, out=x)
        x -= thrice
        np.abs(x, out=x)
        x -= chroma
        np.minimum(np.maximum(x, 0, out=x), chroma, out=x)
        np.subtract(chroma, x, out=x)
        x *= gain
        out[:, channel] = np.subtract(value, x, out=x)  # the assignment cuts down to an integer
        hue -= twice
