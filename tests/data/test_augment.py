"""What the changes of pictures do, against definitions written in another way (padding, resampling, colorsys)."""

import colorsys
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm4vla.data.augment import center_crop, crop, draw, recolour, shift
from vlm4vla.schemas import AugmentConfig

OPENVLA = AugmentConfig(crop=0.9, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)


def noise(seed: int, height: int = 9, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(size: int) -> np.ndarray:
    """A picture whose red is the row and whose green is the column, in steps of two."""
    rows, columns = np.mgrid[:size, :size].astype(np.uint8) * 2
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1)


@given(
    seed=st.integers(0, 1000), pad=st.integers(0, 6), height=st.integers(1, 9), width=st.integers(1, 9), data=st.data()
)
def test_shift_is_a_cut_of_the_padded_picture(seed, pad, height, width, data):
    image = noise(seed, height, width)
    down, right = (data.draw(st.integers(-pad, pad)) for _ in range(2))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    window = padded[pad + down : pad + down + height, pad + right : pad + right + width]
    shifted = shift(image, down, right)
    assert shifted.dtype == np.uint8 and np.array_equal(shifted, window)
    assert not np.shares_memory(image, shifted)


def test_every_offset_of_the_shift_occurs():
    image = np.arange(9 * 9, dtype=np.uint8).reshape(9, 9, 1).repeat(3, 2)
    random = np.random.default_rng(0)
    middles = Counter(int(draw(AugmentConfig(shift=1), random)(image)[4, 4, 0]) for _ in range(900))
    assert set(middles) == {30, 31, 32, 39, 40, 41, 48, 49, 50} and min(middles.values()) > 60


@pytest.mark.parametrize("area", [0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.2, 0.9)])
def test_a_crop_shows_its_window_at_its_scale(area, place):
    size, side = 100, np.sqrt(area)
    cut = crop(ramp(size), area, *place).astype(float)
    # the centre of output pixel j lies at offset + (j + 0.5) * side, in pixels of the picture
    for channel, at in ((0, place[0]), (1, place[1])):
        wanted = 2 * (at * (1 - side) * size + (np.arange(size) + 0.5) * side - 0.5)
        found = cut[:, 50, 0] if channel == 0 else cut[50, :, 1]
        assert np.abs(found - np.clip(wanted, 0, 198))[1:-1].max() <= 1.01
    assert cut.shape == (size, size, 3)


def test_the_whole_area_is_the_picture_and_the_centre_crop_is_the_middle_window():
    image = noise(1, 20, 20)
    assert np.array_equal(crop(image, 1.0, 0.3, 0.8), image)
    assert np.array_equal(center_crop(image, 0.9), crop(image, 0.9, 0.5, 0.5))
    quarter = PIL.Image.fromarray(image[5:15, 5:15]).resize((20, 20), PIL.Image.Resampling.BILINEAR)
    assert np.abs(center_crop(image, 0.25)[2:-2, 2:-2] - np.asarray(quarter, int)[2:-2, 2:-2]).max() <= 1


def test_random_windows_lie_everywhere():
    places = [draw(AugmentConfig(crop=0.25), np.random.default_rng(i))(ramp(100))[50, 50, :2] for i in range(300)]
    corners = np.array(places) > 100  # the middle of the window is 25 to 75 pixels from the top and left
    assert min(Counter(map(tuple, corners.tolist())).values()) > 50 and len(set(map(tuple, corners.tolist()))) == 4


def slow(image, delta, contrast, saturation, turn):
    """The four colour operations, one after the other, a pixel at a time."""
    x = np.clip(image / 255 + delta, 0, 1)
    mean = x.mean((0, 1))
    x = np.clip((x - mean) * contrast + mean, 0, 1)
    out = np.empty_like(x)
    for at in np.ndindex(x.shape[:2]):
        hue, s, v = colorsys.rgb_to_hsv(*x[at])
        out[at] = colorsys.hsv_to_rgb(*colorsys.rgb_to_hsv(*colorsys.hsv_to_rgb(hue, min(1.0, s * saturation), v)))
        hue, s, v = colorsys.rgb_to_hsv(*out[at])
        out[at] = colorsys.hsv_to_rgb((hue + turn) % 1, s, v)
    return out * 255.5


@given(
    seed=st.integers(0, 99),
    delta=st.floats(-1, 1),
    contrast=st.floats(0, 2),
    saturation=st.floats(0, 2),
    turn=st.floats(-1 / 6, 1 / 6),
    span=st.sampled_from([1, 2, 256]),
)
def test_colours_equal_the_definition(seed, delta, contrast, saturation, turn, span):
    image = np.random.default_rng(seed).integers(256 - span, 256, (4, 5, 3), dtype=np.uint8)
    found, wanted = recolour(image, delta, contrast, saturation, turn), slow(image, delta, contrast, saturation, turn)
    assert found.dtype == np.uint8 and not np.shares_memory(found, image)
    assert np.all(found <= wanted + 1e-3) and np.all(found >= wanted - 1.001)  # cut down, but for float32


def test_no_change_of_colours_is_the_picture_itself_and_large_pictures_are_whole():
    image = noise(3, 224, 224)
    assert np.array_equal(recolour(image, 0, 1, 1, 0), image)
    changed = recolour(image, 0.1, 1.1, 1.2, 0.05)
    cut = np.floor(slow(image[-2:], 0.1, 1.0, 1.2, 0.05))  # without contrast, which looks at the whole picture
    assert np.abs(recolour(image, 0.1, 1.0, 1.2, 0.05)[-2:] - cut).max() <= 1 and not np.array_equal(changed, image)


def test_strengths_are_reached_and_not_exceeded():
    grey = np.full((2, 2, 3), 100, np.uint8)
    levels = [int(draw(AugmentConfig(brightness=0.2), np.random.default_rng(i))(grey)[0, 0, 0]) for i in range(500)]
    assert 49 <= min(levels) <= 51 and 149 <= max(levels) <= 151
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0], red[..., 1:] = 200, 100
    greens = [draw(AugmentConfig(saturation=0.2), np.random.default_rng(i))(red)[0, 0] for i in range(500)]
    assert {int(g[0]) for g in greens} == {200}
    assert 79 <= min(int(g[1]) for g in greens) <= 81 and 119 <= max(int(g[1]) for g in greens) <= 121


def test_a_change_is_fixed_once_it_is_drawn():
    change = draw(OPENVLA, np.random.default_rng(5))
    assert np.array_equal(change(noise(1)), change(noise(1)))
    assert not np.array_equal(change(noise(1)), draw(OPENVLA, np.random.default_rng(6))(noise(1)))
    nothing = draw(AugmentConfig(), np.random.default_rng(0))
    image = noise(2)
    assert np.array_equal(nothing(image), image) and not np.shares_memory(nothing(image), image)
