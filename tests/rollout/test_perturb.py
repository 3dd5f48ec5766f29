"""What controls change: nothing is lost, nothing depends on anything but task, seed and camera."""

import numpy as np
import pytest
from fake_bench import Benchmark
from rollout_fakes import picture

from vlm4vla.rollout import perturb
from vlm4vla.types import CameraMove, CameraSpec, EpisodeSpec

SIZES = [(96, 96), (200, 200), (84, 84), (480, 640), (97, 103), (8, 8), (5, 300), (1, 1)]


def start(seed: int, task: str = "move") -> EpisodeSpec:
    return EpisodeSpec("fake-v1", "eval", task, 3, seed, "go")


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_shuffled_picture_has_every_pixel_and_hardly_one_in_its_place(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    before = image.copy()
    mixed = perturb.shuffled(image, start(7), "front")
    assert np.array_equal(image, before) and mixed.shape == image.shape and mixed.dtype == np.uint8
    assert np.array_equal(np.sort(image.reshape(-1, 3), axis=0), np.sort(mixed.reshape(-1, 3), axis=0))
    assert np.array_equal(mixed, perturb.shuffled(image, start(7), "front"))
    if min(size) >= 8:
        assert (mixed == image).all(axis=-1).mean() < 0.3
        assert not np.array_equal(mixed, perturb.shuffled(image, start(8), "front"))
        assert not np.array_equal(mixed, perturb.shuffled(image, start(7), "wrist"))


def test_patches_stay_whole():
    """An 8 x 8 grid of flat patches is one afterwards: seen by the colours inside each cell of the grid."""
    flat = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8), np.ones((12, 12), np.uint8))[..., None].repeat(3, -1)
    mixed = perturb.shuffled(flat, start(3), "front").reshape(8, 12, 8, 12, 3)
    assert (mixed == mixed[:, :1, :, :1]).all()
    assert sorted(mixed[:, 0, :, 0, 0].ravel()) == list(range(64))


def test_sides_that_the_grid_does_not_divide_keep_their_edges():
    image = picture(0, 99)  # patches of 12, one pixel before them and two after
    mixed = perturb.shuffled(image, start(3), "front")
    for edge in (np.s_[:1], np.s_[97:], np.s_[:, :1], np.s_[:, 97:]):
        assert np.array_equal(mixed[edge], image[edge])


def test_cameras_are_moved_as_far_as_declared_and_each_in_its_own_way():
    bench = Benchmark()
    bench.cameras = (CameraSpec("front", 4, 4), CameraSpec("wrist", 4, 4))
    bench.camera_moves = {"front": CameraMove(0.03, 2.0), "wrist": CameraMove(0.01, 0.5)}
    drawn = [perturb.camera_shifts(bench, start(seed)) for seed in range(200)]
    assert drawn == [perturb.camera_shifts(bench, start(seed)) for seed in range(200)]
    for name, move in bench.camera_moves.items():
        ways = np.array([shifts[name].translation for shifts in drawn])
        turns = np.array([shifts[name].rotation for shifts in drawn])
        assert np.allclose(np.linalg.norm(ways, axis=1), move.metres)
        assert np.allclose(np.linalg.norm(turns, axis=1), np.radians(move.degrees))
        # All directions alike: the mean of 200 unit vectors is short.
        assert np.linalg.norm(ways.mean(0)) < 0.2 * move.metres
        assert np.linalg.norm(turns.mean(0)) < 0.2 * np.radians(move.degrees)
    assert len({shifts["front"] for shifts in drawn}) == 200
    front, wrist = (
        np.array(drawn[0][name].translation) / bench.camera_moves[name].metres for name in ("front", "wrist")
    )
    assert not np.allclose(front, wrist)


def test_two_tasks_with_one_seed_have_draws_of_their_own():
    """Published start lists count from 0 for every task: rows of two tasks must not share what a control drew."""
    bench, image = Benchmark(), picture(0, 96)
    one, other = start(5, "open_the_drawer"), start(5, "close_the_drawer")
    assert not np.array_equal(perturb.shuffled(image, one, "front"), perturb.shuffled(image, other, "front"))
    assert perturb.camera_shifts(bench, one) != perturb.camera_shifts(bench, other)
    assert perturb.camera_shifts(bench, one) == perturb.camera_shifts(bench, start(5, "open_the_drawer"))
