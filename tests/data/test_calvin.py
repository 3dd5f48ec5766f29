"""CALVIN's reader and writer. There are no real CALVIN frames here: all are made up and written by our writer."""

import pickle
from dataclasses import replace
from pathlib import Path

import calvin_data
import numpy as np
import pytest
import yaml
from calvin_data import alter, annotations, dataset, recording

from vlm4vla.data.build import build
from vlm4vla.data.formats import calvin_layout as layout
from vlm4vla.data.formats.calvin_rule import broken_relative, broken_targets, relative_actions
from vlm4vla.data.readers.calvin import Reader
from vlm4vla.data.writers.calvin import Writer
from vlm4vla.types import UserError

SCENES = ("calvin_scene_B", "calvin_scene_C", "calvin_scene_B")


def contents(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("actions", ["relative", "absolute"])
@pytest.mark.parametrize("cameras", ["static", "gripper", "static,gripper", "gripper, static"])
def test_what_is_written_is_read_back(tmp_path, actions, cameras):
    lengths = (4, 1, 6)
    dataset(tmp_path, lengths)
    reader = Reader(tmp_path, actions=actions, cameras=cameras)
    assert len(reader) == 3 and [c.name for c in reader.cameras] == cameras.replace(" ", "").split(",")
    for index in (2, 0, 1):
        read, written = reader.episode(index), recording(index, lengths[index])
        assert (read.instruction, read.task, read.source) == (written.instruction, written.task, index)
        assert read.info["scene"] == "calvin_scene_D" and read.info["first_frame"] == sum(lengths[:index])
        assert np.array_equal(read.states, written.robot_obs.astype(np.float32)) and read.states.shape[1] == 15
        expected = written.actions
        if actions == "relative":
            expected = relative_actions(written.actions, written.robot_obs)
        assert np.array_equal(read.actions, expected.astype(np.float32))
        assert set(read.images) == {c.name for c in reader.cameras}
        for name, frames in read.images.items():
            assert np.array_equal(np.stack(list(frames)), written.images[name])
            assert np.array_equal(frames[read.length - 1], written.images[name][-1])


def test_the_specs_say_what_the_numbers_are():
    relative, absolute = layout.SPECS["relative"], layout.SPECS["absolute"]
    for spec in (relative, absolute):
        assert spec.control_hz == 30 and spec.rotation == "euler_xyz" and spec.gripper == (6,)
    assert [d.unit for d in relative.dimensions[:6]] == ["0.02 m"] * 3 + ["0.05 rad"] * 3
    assert {(d.kind, d.frame, d.low, d.high) for d in relative.dimensions[:6]} == {("delta", "world", -1.0, 1.0)}
    assert [d.unit for d in absolute.dimensions[:6]] == ["m"] * 3 + ["rad"] * 3
    assert {(d.kind, d.frame) for d in absolute.dimensions[:6]} == {("absolute", "world")}
    assert layout.STATE_NAMES[6] == "gripper_width_m" and layout.STATE_NAMES[14] == "gripper_action"


def test_the_gripper_keeps_its_sense(tmp_path):
    """+1 opens in CALVIN as in the house."""
    dataset(tmp_path, (12,))
    for actions in ("relative", "absolute"):
        gripper = Reader(tmp_path, actions=actions).episode(0).actions[:, 6]
        assert np.array_equal(gripper, recording(0, 12).actions[:, 6])
        assert set(gripper) == {-1.0, 1.0}


def test_the_rule_of_relative_actions():
    state = np.zeros((1, 15))
    state[0, :6] = [0.1, 0.2, 0.3, 3.13, -3.13, 0.0]
    target = np.array([[0.11, 0.19, 0.5, -3.13, 3.12, -0.2, -1.0]])
    expected = [0.5, -0.5, 1.0, (2 * np.pi - 6.26) / 0.05, -(2 * np.pi - 6.25) / 0.05, -1.0, -1.0]
    assert np.allclose(relative_actions(target, state), [expected], atol=1e-9)
    assert np.allclose(relative_actions(target.astype(np.float32), state.astype(np.float32)), [expected], atol=1e-4)


def test_stored_actions_obey_the_rule_and_a_break_is_found(tmp_path):
    reader = dataset(tmp_path, (9, 5))
    for index in range(2):
        v = reader.vectors(index)
        assert broken_relative(v["rel_actions"], v["actions"], v["robot_obs"]) == []
        assert broken_targets(v["actions"], v["robot_obs"]) == []
        wrong = v["rel_actions"].copy()
        wrong[3, 4] += 0.01
        assert broken_relative(wrong, v["actions"], v["robot_obs"]) == [3]
        assert broken_relative(v["rel_actions"] * 2, v["actions"], v["robot_obs"]) != []
    v = reader.vectors(0)
    assert broken_targets(np.roll(v["actions"], 1, axis=0), v["robot_obs"]) == list(range(8))
    single = {name: value.astype(np.float32) for name, value in v.items()}
    assert broken_relative(single["rel_actions"], single["actions"], single["robot_obs"]) == []
    assert broken_targets(single["actions"], single["robot_obs"]) == []


def test_the_layout_is_the_official_one(tmp_path):
    """As ``calvin_agent``'s data sets open it: np.load with pickles, names of seven digits, both ends inclusive."""
    dataset(tmp_path, (4, 2, 3), SCENES)
    folder = tmp_path / "training"
    frames = sorted(f.name for f in folder.glob("episode_*.npz"))
    assert frames == [f"episode_{i:07d}.npz" for i in range(9)]
    with np.load(folder / frames[0], allow_pickle=False) as frame:
        found = {name: (frame[name].shape, str(frame[name].dtype)) for name in frame.files}
    assert found == {
        "actions": ((7,), "float64"),
        "rel_actions": ((7,), "float64"),
        "robot_obs": ((15,), "float64"),
        "scene_obs": ((24,), "float64"),
        "rgb_static": ((200, 200, 3), "uint8"),
        "rgb_gripper": ((84, 84, 3), "uint8"),
    }
    ends = np.load(folder / layout.RECORDINGS)
    assert ends.tolist() == [[0, 3], [4, 6], [7, 8]] and ends.dtype == np.int64
    assert np.load(folder / layout.LENGTHS).tolist() == [4, 3, 2]
    scenes = np.load(folder / layout.SCENES, allow_pickle=True).item()
    assert scenes == {"calvin_scene_B": [0, 6], "calvin_scene_C": [7, 8]}  # scenes are ranges: sorted by them
    _, data = annotations(tmp_path)
    assert data["info"] == {"episodes": [], "indx": [(0, 3), (4, 6), (7, 8)]}
    assert data["language"]["ann"] == ["push the button 0", "push the button 2", "push the button 1"]
    assert data["language"]["task"][1] == "turn_on_led_2" and data["language"]["emb"].shape == (0, 1, 384)
    stats = yaml.safe_load((folder / layout.STATISTICS).read_text())
    states = np.concatenate([recording(n, length).robot_obs for n, length in enumerate((4, 2, 3))])
    assert np.allclose(stats["robot_obs"][0]["mean"], states.mean(0)) and len(stats["scene_obs"][0]["std"]) == 24
    assert np.allclose(stats["robot_obs"][0]["std"], states.std(0))
    actions = np.concatenate([recording(n, length).actions for n, length in enumerate((4, 2, 3))])
    assert np.allclose(stats["act_max_bound"], actions.max(0)) and np.allclose(stats["act_min_bound"], actions.min(0))


def test_bytes_do_not_depend_on_order_of_arrival_or_on_a_kill(tmp_path):
    recordings = {f"{n:03d}": recording(n, 2 + n, f"scene_{n % 2}") for n in range(4)}
    straight = Writer(tmp_path / "a", section={"noise": 0.1})
    for key, r in recordings.items():
        straight.stage(key, r)
    straight.finish()

    Writer(tmp_path / "b", section={"noise": 0.1}).stage("002", recordings["002"])
    (tmp_path / "b/.staging-training/.001.zip.1.part").write_bytes(b"torn")  # what a kill leaves
    (tmp_path / "b/.assembly-training").mkdir()
    (tmp_path / "b/.assembly-training/episode_0000099.npz").write_bytes(b"of a killed finish")
    again = Writer(tmp_path / "b", section={"noise": 0.1})
    assert again.staged() == ["002"] and not again.finished
    for key in ("003", "000", "001"):
        again.stage(key, recordings[key])
    again.finish()
    assert again.finished and contents(tmp_path / "a") == contents(tmp_path / "b")
    assert Reader(tmp_path / "a").digest() == Reader(tmp_path / "b").digest()
    (tmp_path / "b/.staging-training").mkdir()  # killed between the last move and the tidying up
    Writer(tmp_path / "b", section={"noise": 0.1}).finish()
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and not (tmp_path / "b/.staging-training").exists()


def test_splits_lie_side_by_side_and_only_chosen_keys_are_joined(tmp_path):
    dataset(tmp_path, (3,))
    out = Writer(tmp_path, split="validation", section={})
    for n in range(3):
        out.stage(str(n), recording(n, 2))
    out.finish(["2", "0"])
    reader = Reader(tmp_path, split="validation")
    assert [reader.episode(i).instruction for i in range(len(reader))] == ["push the button 0", "push the button 2"]
    assert len(Reader(tmp_path)) == 1
    assert reader.episode(0).info["split"] == "validation"


def test_a_folder_of_other_settings_is_refused(tmp_path):
    Writer(tmp_path / "a", section={"noise": 0.1})
    Writer(tmp_path / "a", section={"noise": 0.1})
    with pytest.raises(UserError, match="other settings"):
        Writer(tmp_path / "a", section={"noise": 0.2})
    dataset(tmp_path / "b")
    with pytest.raises(UserError, match="other settings"):
        Writer(tmp_path / "b", section={})
    (tmp_path / "official/training").mkdir(parents=True)
    with pytest.raises(UserError, match="other settings"):
        Writer(tmp_path / "official", section={})
    with pytest.raises(UserError, match="Did you mean 'validation'"):
        Writer(tmp_path / "c", split="valid", section={})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"actions": np.zeros((3, 6))}, r"actions \(3, 6\) instead of \(3, 7\)"),
        ({"actions": np.zeros((3, 7))}, "gripper action other than"),
        ({"robot_obs": np.full((3, 15), np.nan)}, "robot_obs that is not finite"),
        ({"scene_obs": np.zeros((2, 24))}, r"scene_obs \(2, 24\)"),
        ({"images": {"static": np.zeros((3, 200, 200, 3), np.uint8)}}, "cameras"),
        (
            {"images": {"static": np.zeros((2, 200, 200, 3), np.uint8), "gripper": np.zeros((3, 84, 84, 3), np.uint8)}},
            "2 pictures of static for 3",
        ),
        (
            {"images": {"static": np.zeros((3, 96, 96, 3), np.uint8), "gripper": np.zeros((3, 84, 84, 3), np.uint8)}},
            r"\(96, 96, 3\) uint8.*\(200, 200, 3\) uint8",
        ),
        ({"instruction": " "}, "the instruction"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(tmp_path, changes, reason):
    out = Writer(tmp_path, section={})
    with pytest.raises(UserError, match=reason):
        out.stage("0", replace(recording(0, 3), **changes))
    with pytest.raises(UserError, match="no frames"):
        out.stage("0", recording(0, 0))
    assert out.staged() == []


def test_whole_recordings_need_a_sentence(tmp_path):
    dataset(tmp_path, (4, 2))
    reader = Reader(tmp_path, windows="all", instruction="play")
    assert [reader.episode(i).length for i in range(2)] == [4, 2]
    assert reader.episode(1).instruction == reader.episode(1).task == "play"
    (tmp_path / "training" / layout.ANNOTATIONS).unlink()
    assert Reader(tmp_path, windows="all", instruction="play").episode(1).source == 1
    with pytest.raises(UserError, match=r"auto_lang_ann\.npy is missing"):
        Reader(tmp_path)
    for options in ({"windows": "all"}, {"instruction": "play"}):
        with pytest.raises(UserError, match="Play data have no sentences"):
            Reader(tmp_path, **options)


def test_windows_may_overlap_and_lie_within_recordings(tmp_path):
    """As the official ones do; both ends are read."""
    dataset(tmp_path, (6, 5))
    file, data = annotations(tmp_path)
    data["info"]["indx"] = [(np.int64(1), np.int64(4)), (2, 2), (6, 10)]
    data["language"] |= {"ann": np.array(["a", "b", "c"]), "task": ["t", "u", "v"], "emb": np.ones((3, 1, 384), "f4")}
    np.save(file, data)
    reader = Reader(tmp_path)
    assert [reader.episode(i).length for i in range(3)] == [4, 1, 5]
    assert np.array_equal(reader.episode(0).states, recording(0, 6).robot_obs[1:5].astype(np.float32))
    assert (reader.episode(1).instruction, reader.episode(1).task) == ("b", "u")


def test_scenes_can_be_chosen(tmp_path):
    dataset(tmp_path, (4, 2, 3), SCENES)
    reader = Reader(tmp_path, scene="calvin_scene_C")
    assert len(reader) == 1 and reader.episode(0).source == 2 and reader.episode(0).length == 2
    assert [Reader(tmp_path).episode(i).info["scene"] for i in range(3)] == sorted(SCENES)
    with pytest.raises(UserError, match=r"Unknown scene.*Did you mean 'calvin_scene_B'"):
        Reader(tmp_path, scene="scene_B")
    file = tmp_path / "training" / layout.SCENES
    np.save(file, {"calvin_scene_B": [0, 5], "calvin_scene_C": [6, 8], "calvin_scene_A": np.array([9, 9])})
    assert "scene" not in Reader(tmp_path).episode(1).info
    with pytest.raises(UserError, match="Frames 4 to 6 lie in no scene"):
        Reader(tmp_path, scene="calvin_scene_B")
    np.save(file, {"calvin_scene_B": [0, 8], "calvin_scene_A": [9, 9]})
    with pytest.raises(UserError, match="no episode"):
        Reader(tmp_path, scene="calvin_scene_A")
    file.unlink()
    assert "scene" not in Reader(tmp_path).episode(0).info
    with pytest.raises(UserError, match=r"scene_info\.npy is missing"):
        Reader(tmp_path, scene="calvin_scene_B")


def test_the_digest_names_content_and_options(tmp_path):
    options = [{}, {"actions": "absolute"}, {"cameras": "gripper"}, {"windows": "all", "instruction": "play"}]
    options += [{"windows": "all", "instruction": "work"}, {"scene": "calvin_scene_D"}]
    dataset(tmp_path / "a")
    digests = [Reader(tmp_path / "a", **o).digest() for o in options]
    assert len(set(digests)) == len(options)
    (tmp_path / "a").rename(tmp_path / "b")
    assert Reader(tmp_path / "b").digest() == digests[0]
    frame = tmp_path / "b/training/episode_0000002.npz"
    alter(frame, rgb_static=np.zeros((200, 200, 3), np.uint8))
    assert Reader(tmp_path / "b").digest() != digests[0]


def test_a_reader_travels_to_another_process_and_builds_a_store(tmp_path):
    dataset(tmp_path / "set", (3, 2))
    reader = Reader(tmp_path / "set", actions="absolute", cameras="static,gripper")
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.digest() == reader.digest() and np.array_equal(copy.episode(1).actions, reader.episode(1).actions)
    store = build(reader, tmp_path / "store", 84, "png")
    assert len(store) == 5 and store.action_spec == layout.SPECS["absolute"]
    assert np.array_equal(store.image(3, "gripper"), recording(1, 2).images["gripper"][0])
    assert np.array_equal(store.actions[3:], recording(1, 2).actions.astype(np.float32))
    with pytest.raises(IndexError):
        reader.episode(2)


def test_the_digest_sees_what_is_inside_the_frames(tmp_path):
    """Files of the same name and size with other numbers are another data set."""
    reader = calvin_data.dataset(tmp_path / "set", lengths=(3,))
    first = reader.digest()
    (frame, *_) = sorted((tmp_path / "set/training").glob("episode_*.npz"))
    with np.load(frame) as arrays:
        values = dict(arrays)
    np.savez(frame, **values)
    stored = reader.digest()
    size = frame.stat().st_size
    np.savez(frame, **values | {"rel_actions": -values["rel_actions"]})
    assert frame.stat().st_size == size
    assert len({first, stored, reader.digest()}) == 3
