"""Moved cameras in the real simulators: other pictures, the same world, and the old pictures to the bit afterwards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calvin_env import calvin_python

from vlm4vla import registry
from vlm4vla.bench import assets, install
from vlm4vla.rollout import check, perturb
from vlm4vla.rollout.pool import WorkerPool
from vlm4vla.types import EpisodeSpec, UserError

pytestmark = pytest.mark.sim
SHARED = Path(__file__).parents[2].parent / "shared/assets"
TASKS = {
    "metaworld": ["drawer-open", "reach"],
    "calvin": ["chain", "open_drawer"],
    "libero": ["put_the_bowl_on_the_stove"],
    "simpler": ["put-carrot-on-plate", "put-eggplant-in-basket"],
}


@pytest.fixture(scope="module", params=sorted(TASKS))
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The benchmark, and per task its start and what a worker answers."""
    name = request.param
    if name == "calvin":
        calvin_python()
    else:
        try:
            assets.folder(name) if name != "metaworld" else None
        except UserError:
            if not (SHARED / name).is_dir():
                pytest.skip(f"the assets of {name} are not set, and {SHARED / name} does not exist")
            assets.provide(name, SHARED / name, print)
        install.install(name, print)
    bench = registry.find("bench", name).Benchmark()
    starts = [bench.episodes("train", task, 1)[0] for task in TASKS[name]]
    jobs = [{"kind": "moved", "id": start.task, "episode": start.to_dict()} for start in starts]
    with WorkerPool(name, 1, tmp_path_factory.mktemp("log") / "log") as pool:
        answers = [(EpisodeSpec.from_dict(job["episode"]), result) for job, result in pool.run(jobs)]
    assert all(result["kind"] == "result" for _, result in answers), answers
    return bench, answers


def test_the_world_does_not_notice_and_the_pictures_come_back(found: Any) -> None:
    bench, answers = found
    for _, result in answers:
        before, moved, after = result["pictures"]
        assert sorted(before) == sorted(camera.name for camera in bench.cameras)
        for camera in before:
            assert np.array_equal(before[camera], after[camera]), camera
            assert before[camera].shape == moved[camera].shape and not np.array_equal(before[camera], moved[camera])
        assert all(np.array_equal(state, result["states"][0]) for state in result["states"])


def test_the_picture_moves_as_little_as_it_should(found: Any) -> None:
    """Where the picture of the unmoved camera fits best onto that of the moved one: within a sixth of its side."""
    bench, answers = found
    for start, result in answers:
        before, moved, _ = result["pictures"]
        for camera in before:
            side = min(before[camera].shape[:2])
            aside, up = best_offset(before[camera], moved[camera], side // 6)
            assert 0 < np.hypot(aside, up) < side / 6, (camera, aside, up, perturb.camera_shifts(bench, start)[camera])


def best_offset(before: np.ndarray, moved: np.ndarray, reach: int) -> tuple[int, int]:
    """Pixels to the right and down by which ``moved`` lies, by the least mean difference of grey where both overlap."""
    a, b = (image.astype(np.float64).mean(axis=-1) for image in (before, moved))
    step = max(1, reach // 16)
    offsets = range(-reach, reach + 1, step)
    inner = np.s_[reach : a.shape[0] - reach, reach : a.shape[1] - reach]
    costs: dict[tuple[int, int], float] = {}
    for x in offsets:
        for y in offsets:
            rolled = np.roll(a, (y, x), axis=(0, 1))
            costs[x, y] = float(np.abs(rolled[inner] - b[inner]).mean())
    return min(costs, key=lambda offset: costs[offset])


def test_bench_check_has_the_finding(metaworld_env: Path) -> None:
    at = check._Bench("metaworld", quick=True, python=metaworld_env)
    at.tasks = ("drawer-open",)
    with at.pool(1) as pool:
        finding = check._cameras_come_back(at, pool)
    assert finding["ok"] and finding["name"] == "cameras", finding
