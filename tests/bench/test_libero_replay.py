"""A recorded demonstration, executed again in a fresh process from what its file says."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_libero_sim import SOUP, python  # noqa: F401 (a fixture)

from vlm4vla.bench import recordings
from vlm4vla.bench.libero.env import Benchmark
from vlm4vla.bench.libero.variants import SETTING
from vlm4vla.data.formats.libero_layout import flipped
from vlm4vla.rollout.pool import WorkerPool
from vlm4vla.types import UserError

pytestmark = pytest.mark.sim


def written(folder: Path, demo: dict, index: int, ours: bool, shift: float = 0.0, benchmark="libero-v1") -> Path:
    """The parts of LIBERO's file that a replay looks at."""
    file = folder / f"{SOUP}_demo.hdf5"
    with h5py.File(file, "w") as out:
        group = out.create_group("data/demo_0")
        group["executed_actions" if ours else "actions"] = flipped(demo["executed"]).astype(np.float64)
        states = demo["vectors"]["states"][:-1].copy()
        states[len(states) // 2 :, 1] += shift
        group["states"] = states
        if ours:
            seed = Benchmark().episodes("train", SOUP, index + 1)[index].seed
            group.attrs["vlm4vla"] = json.dumps({"task": SOUP, "source": index, "info": {"seed": seed}})
            out["data"].attrs["vlm4vla"] = json.dumps({"section": {"benchmark": benchmark}})
    return file


def test_a_demonstration_is_executed_again_to_the_bit(python, tmp_path):  # noqa: F811
    episode = Benchmark().episodes("train", SOUP, 2)[1].to_dict()
    job = {"kind": "demo", "id": "demo", "episode": episode, "noise": 0.05, "after_success": 2, "pictures": False}
    with WorkerPool("libero", 1, tmp_path / "log") as pool:
        ((_, demo),) = pool.run([job])
    assert demo["success"]
    (ours,) = recordings.replay("libero", [written(tmp_path, demo, 1, ours=True)])
    assert ours["ok"] and (ours["successes"], ours["states_equal"], ours["max_abs_diff"]) == (1, 1, 0.0)
    (moved,) = recordings.replay("libero", [written(tmp_path, demo, 1, ours=True, shift=1e-9)])
    assert not moved["ok"] and moved["max_abs_diff"] == pytest.approx(1e-9, rel=1e-3)
    # Another tool's file begins at its state, in a scene whose basket may stand elsewhere: nothing is promised of it.
    (others,) = recordings.replay("libero", [written(tmp_path, demo, 1, ours=False)])
    assert others["ours"] == 0 and others["demos"] == 1 and "in equal states" in others["text"]


@pytest.mark.parametrize(
    ("recorded", "here", "todo"),
    [
        ("libero-v1+lerobot", "", "Set VLM4VLA_LIBERO_PROTOCOL=lerobot."),
        ("libero-v1", "lerobot", "Do not set VLM4VLA_LIBERO_PROTOCOL."),
        ("libero-v0", "", "the version of this package"),
    ],
)
def test_a_recording_of_another_protocol_is_refused(python, tmp_path, monkeypatch, recorded, here, todo):  # noqa: F811
    demo = {"executed": np.zeros((2, 7), np.float32), "vectors": {"states": np.zeros((3, 5))}}
    file = written(tmp_path, demo, 0, ours=True, benchmark=recorded)
    monkeypatch.setenv(SETTING, here)
    with pytest.raises(UserError) as told:
        recordings.replay("libero", [file])
    now = f"libero-v1+{here}" if here else "libero-v1"
    assert f"recorded under {recorded!r}, and here is {now!r}" in str(told.value) and todo in str(told.value)


def test_what_is_no_recording_is_refused(python, tmp_path):  # noqa: F811
    other = tmp_path / "something.hdf5"
    other.write_bytes(b"no HDF5")
    with pytest.raises(UserError, match="of no task of this benchmark"):
        recordings.replay("libero", [other])
    with pytest.raises(UserError, match="is no file of demonstrations"):
        recordings.replay("libero", [other.rename(tmp_path / f"{SOUP}_demo.hdf5")])
