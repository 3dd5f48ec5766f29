"""Recordings of the original environment, in ours: every state to the bit, every result of the task rules, pictures."""

import numpy as np
import pytest
from calvin_env import SHARED, calvin_python

from vlm4vla.bench import recordings
from vlm4vla.cli.main import main
from vlm4vla.types import UserError

pytestmark = pytest.mark.sim
GOLDEN = SHARED / "calvin_golden"


@pytest.fixture(scope="module", autouse=True)
def installed():
    if not GOLDEN.is_dir():
        pytest.skip(f"{GOLDEN}, the recordings, is missing")
    calvin_python()


def test_every_recording_is_reproduced():
    found = recordings.replay("calvin", sorted(GOLDEN.glob("*.npz")))
    assert len(found) == 13 and {r["scene"] for r in found} == set("ABCD")
    for r in found:
        assert r["states_equal"] == r["tasks_equal"] == r["steps"] > 20, r
        assert r["largest_difference"] == 0.0 and r["first_different"] is None
        assert all(difference <= 1.0 for difference in r["pictures"].values()), r
        assert r["ok"]
    assert sum(len(r["pictures"]) for r in found) == 8 * 4


def spoiled(tmp_path, **changes):
    with np.load(GOLDEN / "calvin_D_turn_on_led.npz") as file:
        arrays = {name: file[name] for name in file.files}
    for name, change in changes.items():
        arrays[name] = change(arrays[name].copy())
    path = tmp_path / f"{'-'.join(changes)}.npz"
    np.savez(path, **arrays)
    return path


def nudge(array):
    array.flat[-1] = np.nextafter(array.flat[-1], np.inf)
    return array


def test_the_smallest_difference_is_seen(tmp_path, capsys):
    state = spoiled(tmp_path, robot_obs=nudge)
    result = spoiled(tmp_path, tasks=lambda tasks: np.roll(tasks, 1))
    one, two = recordings.replay("calvin", [state, result])
    assert not one["ok"] and one["states_equal"] == one["steps"] - 1 == one["first_different"]
    assert 0 < one["largest_difference"] < 1e-15 and one["tasks_equal"] == one["steps"]
    assert not two["ok"] and two["states_equal"] == two["steps"] > two["tasks_equal"]
    assert main(["bench", "replay", "calvin", str(state)]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scene": lambda _: np.array("E")}, "its scene is 'E'"),
        ({"actions": lambda a: a[:, :6]}, "actions has shape"),
        ({"actions": lambda a: a * np.nan}, "not finite"),
        ({"tasks": lambda t: t[:-1]}, "lengths differ"),
        ({"tasks": lambda t: t.astype(object)}, "pickled"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, changes, why):
    with pytest.raises(UserError, match=why):
        recordings.replay("calvin", [spoiled(tmp_path, **changes)])


def test_a_benchmark_without_recordings_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="no recordings to replay"):
        recordings.replay("metaworld", [])
    with pytest.raises(UserError, match="There is no file"):
        recordings.replay("calvin", [tmp_path / "absent.npz"])
