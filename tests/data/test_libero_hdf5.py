"""LIBERO's demonstration files: the senses, the options, the writer, and hostile files."""

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libero_files import SIZE, actions, official, picture

from vlm4vla.bench.libero.tasks import SUITES, instruction
from vlm4vla.data.formats import libero_layout as layout
from vlm4vla.data.readers import _digest
from vlm4vla.data.readers.libero_hdf5 import Reader
from vlm4vla.types import CameraSpec, UserError

BOTH = "agentview,eye_in_hand"


def test_pictures_are_upright_and_the_gripper_has_the_house_sense(tmp_path):
    file = official(tmp_path)
    reader = Reader(tmp_path, cameras=BOTH)
    assert len(reader) == 2 and reader.cameras == (
        CameraSpec("agentview", SIZE, SIZE),
        CameraSpec("eye_in_hand", SIZE, SIZE),
    )
    episode = reader.episode(1)
    assert (episode.instruction, episode.task, episode.source) == ("push it", "push_it", 1)
    assert episode.info == {"file": file.name, "demo": "demo_1"}
    for name, first in (("agentview", 0), ("eye_in_hand", 100)):
        frames = episode.images[name]
        assert len(frames) == 9
        for t, frame in enumerate(frames):
            assert np.array_equal(frame, picture(first + t))  # bright above, red on the left
        assert np.array_equal(frames[4], picture(first + 4)) and np.array_equal(frames[-1], picture(first + 8))
    stored = actions(1, 9).astype(np.float32)
    assert np.array_equal(episode.actions[:, :6], stored[:, :6])
    assert episode.actions[0, 6] == 1 and episode.actions[-1, 6] == -1  # open, then closed
    with h5py.File(file) as f:
        obs = f["data/demo_1/obs"]
        expected = np.concatenate([obs["ee_states"], obs["gripper_states"]], axis=1).astype(np.float32)
    assert np.array_equal(episode.states, expected)
    assert reader.state_names[0] == "ee_states.x" and reader.state_names[-1] == "gripper_states.right"
    assert reader.action_spec.rotation == "axis_angle" and reader.action_spec.control_hz == 20


def test_demonstrations_are_in_the_order_of_their_numbers(tmp_path):
    official(tmp_path, "b", (2,) * 12)
    official(tmp_path, "a", (3, 4), text='  "with quotes" ')
    reader = Reader(tmp_path)
    found = [(reader.episode(i).task, reader.episode(i).info["demo"]) for i in range(14)]
    assert found == [("a", "demo_0"), ("a", "demo_1"), *(("b", f"demo_{n}") for n in range(12))]
    said = Reader(tmp_path, instruction="attribute").episode(0)
    assert said.instruction == "with quotes" and [reader.episode(i).source for i in (0, 13)] == [0, 13]
    one = Reader(tmp_path / "b_demo.hdf5", state="joint_states")
    assert len(one) == 12 and one.state_names[6] == "joint_states.joint_7"
    without = Reader(tmp_path, state="none")
    assert without.state_names == () and without.episode(3).states is None
    with pytest.raises(IndexError):
        one.episode(12)


def noops(raw: np.ndarray) -> list[int]:
    """The rows that the documented rule keeps, told a second time: previous means the last row kept."""
    kept: list[int] = []
    for t, row in enumerate(raw):
        if sum(x * x for x in row[:6]) ** 0.5 < 1e-4 and (not kept or row[6] == raw[kept[-1]][6]):
            continue
        kept.append(t)
    return kept


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12), st.booleans())
def test_noops_are_dropped_on_demand_only(rows, align):
    raw = np.array(
        [[0.2 * moves] + [5e-5 * (not moves)] + [0.0] * 4 + [1.0 if closed else -1.0] for moves, closed in rows]
    )
    with TemporaryDirectory() as folder:
        path = official(Path(folder), lengths=(len(raw),))
        with h5py.File(path, "r+") as f:
            f["data/demo_0/actions"][...] = raw
        shift = int(align)
        kept = [shift + t for t in noops(raw[shift:])]
        if len(raw) > shift:
            assert Reader(path, align=align).episode(0).length == len(raw) - shift
        reader = Reader(path, drop_noops=True, align=align)
        if not kept:
            with pytest.raises(UserError, match="it has no frames"):
                reader.episode(0)
            return
        episode = reader.episode(0)
        assert episode.info["dropped_noops"] == len(raw) - shift - len(kept)
        assert np.array_equal(episode.actions, layout.flipped(raw[kept].astype(np.float32)))
        assert [int(frame[0, 0, 2]) for frame in episode.images["agentview"]] == [t - shift for t in kept]


def test_alignment_pairs_an_action_with_what_was_seen_before_it(tmp_path):
    official(tmp_path)
    plain, aligned = Reader(tmp_path).episode(0), Reader(tmp_path, align=True).episode(0)
    assert np.array_equal(aligned.actions, plain.actions[1:]) and np.array_equal(aligned.states, plain.states[:-1])
    assert np.array_equal(np.stack(list(aligned.images["agentview"])), np.stack(list(plain.images["agentview"]))[:-1])


def test_the_instruction_is_the_name_of_the_file_which_evaluations_tell(tmp_path):
    """The sentence in the file is another one in three suites; regenerated files have none."""
    official(tmp_path, "KITCHEN_SCENE3_turn_on_the_stove", text=None)
    official(tmp_path, "pick_up_the_black_bowl", text='"Pick the akita black bowl"')
    for reader in (Reader(tmp_path), Reader(tmp_path, instruction="file_name")):
        assert {reader.episode(i).instruction for i in range(4)} == {"turn on the stove", "pick up the black bowl"}
        assert not any("evaluated_as" in reader.episode(i).info for i in range(4))
    assert Reader(tmp_path).digest() == Reader(tmp_path, instruction="file_name").digest()
    said = Reader(tmp_path, instruction="attribute")
    with pytest.raises(UserError, match="Leave the option instruction out"):
        said.episode(0)
    assert said.episode(2).instruction == "Pick the akita black bowl"
    assert said.episode(2).info["evaluated_as"] == "pick up the black bowl"
    assert said.digest() != Reader(tmp_path).digest()


@pytest.mark.parametrize("suite", SUITES)
def test_a_policy_is_trained_on_the_sentence_that_it_is_evaluated_on(tmp_path, suite):
    for task in SUITES[suite]:
        official(tmp_path, task, lengths=(1,), text="the sentence of the BDDL file", size=1)
    reader = Reader(tmp_path)
    found = {reader.episode(i).task: reader.episode(i).instruction for i in range(len(reader))}
    assert found == {task: instruction(task) for task in SUITES[suite]}


def test_mistakes_are_refused(tmp_path):
    official(tmp_path)
    for options, match in (
        ({"cameras": "agentveiw"}, "Did you mean 'agentview'"),
        ({"cameras": "agentview,agentview"}, "twice"),
        ({"state": "ee_state"}, "Did you mean 'ee_states'"),
        ({"instruction": "filename"}, "Did you mean 'file_name'"),
    ):
        with pytest.raises(UserError, match=match):
            Reader(tmp_path, **options)
    with pytest.raises(UserError, match="no LIBERO demonstrations"):
        Reader(tmp_path / "absent")
    official(tmp_path, "other", size=16)
    with pytest.raises(UserError, match="pictures of one size"):
        Reader(tmp_path)


def test_a_reader_travels_and_its_digest_names_content_and_options(tmp_path, monkeypatch):
    path = official(tmp_path)
    reader = Reader(tmp_path, drop_noops=True)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.digest() == reader.digest() != Reader(tmp_path).digest()
    assert np.array_equal(copy.episode(0).actions, reader.episode(0).actions)
    monkeypatch.setattr(_digest, "_WHOLE", 0)  # as for a large data set: names, sizes and actions
    large = reader.digest()
    with h5py.File(path, "r+") as f:
        f["data/demo_0/actions"][0, 6] = 1.0
    assert reader.digest() != large
