"""LeRobot v2.1: two real samples, and the options that v3.0 shares."""

import inspect
import pickle
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import robot_data
from synthetic_data import dataset

from vlm4vla.data.readers import _lerobot, lerobot_v3
from vlm4vla.data.readers.lerobot_v21 import Reader
from vlm4vla.types import UserError

SPECS = Path(__file__).parents[2] / "examples" / "specs"
DELTA = "action.delta_eef_position,action.delta_eef_rotation,action.gripper_close"
POSE = "state.eef_position,state.eef_rotation"


def g1(**options) -> Reader:
    options = {"spec": SPECS / "g1_inspire.yaml", "episodes": "1,10"} | options
    return Reader(robot_data("lerobot_v21_g1_inspire"), **options)


def internvla(**options) -> Reader:
    options = {"episodes": "2,3", "cameras": "ego_view", "action": DELTA} | options
    return Reader(robot_data("lerobot_internvla_m1"), spec=SPECS / "internvla_m1_delta_eef.yaml", **options)


def video_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_the_real_g1_sample_agrees_with_an_independent_read():
    root, reader = robot_data("lerobot_v21_g1_inspire"), g1()
    assert len(reader) == 2 and reader.cameras[0].name == "cam_high"
    assert [d.name for d in reader.action_spec.dimensions] == list(reader.state_names)
    assert reader.state_names[0] == "kLeftShoulderPitch" and len(reader.state_names) == 26
    for index, (number, rows) in enumerate(((1, 393), (10, 290))):
        episode = reader.episode(index)
        frame = pd.read_parquet(root / f"data/chunk-000/episode_{number:06d}.parquet")
        assert episode.source == number and episode.length == rows
        assert episode.instruction == episode.task == "Pick up the yellow bottle on the table."
        assert np.array_equal(episode.actions, np.stack(frame["action"].to_list()))
        assert np.array_equal(episode.states, np.stack(frame["observation.state"].to_list()))
        video = root / f"videos/chunk-000/observation.images.cam_high/episode_{number:06d}.mp4"
        assert video_frames(video) == len(episode.images["cam_high"]) == rows


def test_every_frame_of_a_real_video_is_the_one_of_its_row():
    root = robot_data("lerobot_v21_g1_inspire")
    frames = g1().episode(1).images["cam_high"]
    with av.open(str(root / "videos/chunk-000/observation.images.cam_high/episode_000010.mp4")) as container:
        for i, (mine, theirs) in enumerate(zip(frames, container.decode(video=0), strict=True)):
            if i % 29 == 0:
                assert np.array_equal(mine, theirs.to_ndarray(format="rgb24"))
            if i == 203:
                assert np.array_equal(mine, frames[203])


def test_the_real_internvla_sample_joins_columns_and_turns_the_gripper():
    root, reader = robot_data("lerobot_internvla_m1"), internvla(state=POSE)
    assert reader.state_names[0] == "state.eef_position.0" and len(reader.state_names) == 6
    for index, (number, rows) in enumerate(((2, 398), (3, 446))):
        episode = reader.episode(index)
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        frame = pq.read_table(path, columns=[*DELTA.split(","), *POSE.split(","), "state.gripper_width"]).to_pydict()
        assert (
            episode.length == rows == video_frames(root / f"videos/chunk-000/video.ego_view/episode_{number:06d}.mp4")
        )
        assert np.array_equal(episode.actions[:, :3], np.float32(frame["action.delta_eef_position"]))
        assert np.array_equal(episode.actions[:, 3:6], np.float32(frame["action.delta_eef_rotation"]))
        closing = np.ravel(frame["action.gripper_close"])
        assert np.array_equal(episode.actions[:, 6], -closing.astype(np.float32))
        assert np.array_equal(episode.states[:, :3], np.float32(frame["state.eef_position"]))
        # The fingers' own angles say which number closes: they grow while the gripper number is -1.
        angle = np.array(frame["state.gripper_width"])[:, 0]
        assert angle[episode.actions[:, 6] < 0].mean() > 10 * angle[episode.actions[:, 6] > 0][:50].mean()
    assert {e.instruction for e in map(reader.episode, range(2))} == {
        "Move the potato to the top of the cooking utensils.",
        "Move the vintage polaroid instant camera to the top of the books.",
    }


def test_what_the_spec_file_says_about_the_real_numbers():
    """The comments of examples/specs/internvla_m1_delta_eef.yaml, checked."""
    from scipy.spatial.transform import Rotation

    table = pq.read_table(robot_data("lerobot_internvla_m1") / "data/chunk-000/episode_000003.parquet")
    position, delta, angles, turn, pose = (
        np.array(table.column(f"action.{name}").to_pylist())
        for name in (
            "eef_position",
            "delta_eef_position",
            "delta_eef_rotation",
            "delta_eef_quaternion",
            "eef_quaternion",
        )
    )
    moved = np.diff(position, axis=0)
    of_the_hand = Rotation.from_quat(pose[:-1], scalar_first=True).inv().apply(moved)
    assert np.abs(delta[:-1] - moved).mean() < 3e-4 < 3e-3 < np.abs(delta[:-1] - of_the_hand).mean()
    assert np.allclose(Rotation.from_quat(turn, scalar_first=True).as_euler("xyz"), angles, atol=1e-9)


def test_annotations_are_never_read():
    reader = internvla()
    binary = [n for n, f in reader._info["features"].items() if f["dtype"] == "binary"]
    assert binary and not set(binary) & set(reader._columns.needed)
    assert reader._table(2, 398).column_names == reader._columns.needed
    with pytest.raises(UserError, match=r"action=annotation\.bbox3d names"):
        internvla(action="annotation.bbox3d")


def test_missing_episodes_and_cameras_are_named_with_the_option():
    with pytest.raises(UserError, match=r'lists 100 episodes, but of episode 0 .*episodes="1,10"'):
        g1(episodes=None)
    with pytest.raises(UserError, match=r"of episode 3 .*video\.base_view/.*cameras="):
        internvla(cameras=None)
    both = internvla(cameras="video.base_view,ego_view", episodes="2")
    assert [c.name for c in both.cameras] == ["base_view", "ego_view"] and both.cameras[0].height == 480
    frames = both.episode(0).images["base_view"]
    assert len(frames) == 398 and frames[0].shape == (480, 640, 3)


def test_nothing_is_guessed():
    with pytest.raises(UserError, match="names 'action'"):
        internvla(action="action")
    with pytest.raises(UserError, match="have 6 numbers, the action spec 7"):
        internvla(action="action.delta_eef_position,action.delta_eef_rotation")
    with pytest.raises(UserError, match="what its action numbers mean"):
        g1(spec=None)
    with pytest.raises(UserError, match=r"Did you mean 'cam_high'"):
        g1(cameras="cam_hihg")
    with pytest.raises(UserError, match="twice"):
        g1(state="observation.state,observation.state")
    assert g1(state="none").state_names == ()


def test_a_reader_travels_and_its_digest_names_the_choice():
    reader = internvla()
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.digest() == reader.digest() and copy.state_names == reader.state_names
    assert len({reader.digest(), internvla(episodes="2").digest(), internvla(state=POSE).digest()}) == 3


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), min_size=1, max_size=5))
def test_episode_choices_are_those_of_python_ranges(parts):
    option = ",".join(f"{a}:{a + n}" if n > 1 else f"{a}" for a, n in parts)
    expected = sorted({i for a, n in parts for i in range(a, a + n)})
    assert _lerobot.choose(option, range(40)) == expected


@pytest.mark.parametrize("option", ["", "1,", "4:4", "-1", "0:99999999", "1-3", "39:41", "x", "40"])
def test_bad_episode_choices_are_refused(option):
    with pytest.raises(UserError, match="0 to 39"):
        _lerobot.choose(option, range(40))


def test_the_v3_reader_has_the_same_options(tmp_path):
    whole = dataset(tmp_path, lengths=(5, 1, 9))
    assert list(inspect.signature(Reader).parameters) == list(inspect.signature(lerobot_v3.Reader).parameters)
    some = lerobot_v3.Reader(tmp_path, episodes="0,2", cameras="wrist", state="none")
    assert len(some) == 2 and [c.name for c in some.cameras] == ["wrist"] and some.state_names == ()
    assert some.episode(1).source == whole.episode(2).source and some.episode(1).states is None
    assert np.array_equal(some.episode(1).actions, whole.episode(2).actions)
    assert set(some.episode(1).images) == {"wrist"} and some.digest() != whole.digest()
    copy = pickle.loads(pickle.dumps(some))
    assert copy.digest() == some.digest() and len(copy) == 2
    with pytest.raises(UserError, match="episodes=3"):
        lerobot_v3.Reader(tmp_path, episodes="3")
