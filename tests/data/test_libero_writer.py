"""Written LIBERO files: read back as written, resumed, and the same bytes in any order."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libero_files import official
from synthetic_data import spec

from vlm4vla.data.base import RawEpisode
from vlm4vla.data.formats import libero_layout as layout
from vlm4vla.data.readers.libero_hdf5 import Reader
from vlm4vla.data.writers.libero_hdf5 import Writer
from vlm4vla.types import CameraSpec, UserError


def recorded(number: int, length: int, names: tuple[str, ...], size: int = 6) -> RawEpisode:
    random = np.random.default_rng(number)
    moves = random.uniform(-1, 1, (length, 7)).astype(np.float32)
    moves[:, 6] = np.sign(moves[:, 6])
    return RawEpisode(
        instruction=f"do thing {number % 2}",
        images={name: random.integers(0, 256, (length, size, size + 2, 3), dtype=np.uint8) for name in names},
        actions=moves,
        states=random.normal(size=(length, 8)).astype(np.float32),
        task=f"task-{number % 2}",
        source=100 + number,
        info={"seed": number, "first_success": length - 1},
    )


def writer(root: Path, names: tuple[str, ...] = ("agentview",), size: int = 6, **options) -> Writer:
    views = tuple(CameraSpec(name, size, size + 2) for name in names)
    vectors = layout.state_names(("ee_states", "gripper_states"))
    settings = {"action_spec": layout.SPEC, "cameras": views, "state_names": vectors, "section": {"noise": 0.1}}
    return Writer(root, **(settings | options))


def contents(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def assert_same(read: RawEpisode, written: RawEpisode) -> None:
    assert (read.instruction, read.task, read.source) == (written.instruction, written.task, written.source)
    assert dict(read.info) == dict(written.info)
    assert np.array_equal(read.actions, written.actions) and np.array_equal(read.states, written.states)
    assert set(read.images) == set(written.images)
    for name, frames in written.images.items():
        assert np.array_equal(np.stack(list(read.images[name])), frames)


@settings(max_examples=10)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans(), st.integers(1, 9))
def test_what_is_written_is_read_back(lengths, wrist, size):
    names = ("agentview", "eye_in_hand") if wrist else ("agentview",)
    episodes = {f"{n:03d}": recorded(n, length, names, size) for n, length in enumerate(lengths)}
    with TemporaryDirectory() as folder:
        out = writer(Path(folder), names, size)
        for key, episode in episodes.items():
            out.add(key, episode)
        out.finish()
        reader = Reader(Path(folder), cameras=",".join(names))
        expected = sorted(episodes.values(), key=lambda e: (e.task, e.source))
        assert len(reader) == len(expected)
        for n, episode in enumerate(expected):
            assert_same(reader.episode(n), episode)


def test_the_written_layout_is_that_of_libero(tmp_path):
    episode = recorded(0, 5, ("agentview",))
    attributes = {"env_name": "Toy", "problem_info": '{"problem_name": "toy"}'}
    episode = replace(episode, info={**episode.info, "attributes": attributes})
    out = writer(tmp_path)
    states = np.arange(10.0).reshape(5, 2)
    out.add("0", episode, {"states": states, "obs/joint_states": np.zeros((6, 7))})
    with pytest.raises(UserError, match="not finished"):
        Reader(tmp_path)
    out.finish()
    with h5py.File(tmp_path / "task-0_demo.hdf5") as f:
        data, demo = f["data"], f["data/demo_0"]
        said = json.loads(data.attrs["problem_info"])
        assert said == {"problem_name": "toy", "language_instruction": "do thing 0"}
        assert data.attrs["env_name"] == "Toy" and (data.attrs["num_demos"], data.attrs["total"]) == (1, 5)
        assert demo.attrs["num_samples"] == 5 and np.array_equal(demo.attrs["init_state"], states[0])
        assert set(demo) == {"actions", "states", "rewards", "dones", "obs"}
        assert {"agentview_rgb", "ee_states", "ee_pos", "ee_ori", "gripper_states", "joint_states"} == set(demo["obs"])
        assert np.array_equal(demo["actions"][:, 6], -episode.actions[:, 6])  # LIBERO: +1 closes
        assert np.array_equal(demo["obs/agentview_rgb"][2], episode.images["agentview"][2][::-1, ::-1])
        assert np.array_equal(demo["obs/ee_ori"], demo["obs/ee_states"][:, 3:])
        assert demo["dones"][:].tolist() == demo["rewards"][:].tolist() == [0, 0, 0, 0, 1]
        assert demo["actions"].dtype == np.float64


class Killed(Exception):
    pass


def test_a_killed_writer_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch):
    episodes = {f"{n}": recorded(n, 3 + n, ("agentview",)) for n in range(5)}
    straight = writer(tmp_path / "a")
    for key, episode in episodes.items():
        straight.add(key, episode)
    straight.finish()

    writer(tmp_path / "b").add("3", episodes["3"])
    (tmp_path / "b/.staging/.1.hdf5.7.part").write_bytes(b"torn")  # what a kill leaves
    again = writer(tmp_path / "b")
    assert again.staged() == ["3"] and not again.finished
    for key in "40213":
        again.add(key, episodes[key])
    real, calls = Path.replace, []

    def dying(self, target):
        calls.append(target)
        if len(calls) == 2:  # between the two tasks
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying)
        with pytest.raises(Killed):
            again.finish()
    assert not writer(tmp_path / "b").finished
    with pytest.raises(UserError, match="not finished"):
        Reader(tmp_path / "b")
    with monkeypatch.context() as patched:
        patched.setattr("vlm4vla.data.writers.libero_hdf5.shutil.rmtree", lambda *a, **k: None)
        writer(tmp_path / "b").finish()  # killed before the last tidying up
    assert (tmp_path / "b/.removed").exists() and writer(tmp_path / "b").finished
    writer(tmp_path / "b").finish()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert Reader(tmp_path / "a").digest() == Reader(tmp_path / "b").digest()


def test_chosen_keys_are_joined_and_nothing_of_a_former_choice_stays(tmp_path, monkeypatch):
    out = writer(tmp_path)
    for n in range(3):
        out.add(str(n), recorded(n, 2, ("agentview",)))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            out.finish(["0", "1"])
    out.finish(["2", "0"])
    assert [f.name for f in tmp_path.iterdir()] == ["task-0_demo.hdf5"]
    assert [Reader(tmp_path).episode(i).source for i in range(2)] == [100, 102]


def test_what_the_layout_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match="7"):
        writer(tmp_path, action_spec=spec())
    with pytest.raises(UserError, match="camera front"):
        writer(tmp_path, names=("front",))
    with pytest.raises(UserError, match=r"state ee_states\.x"):
        writer(tmp_path, state_names=("ee_states.x",))
    out = writer(tmp_path)
    episode = recorded(0, 4, ("agentview",))
    with pytest.raises(UserError, match="name of a file"):
        out.add("0", replace(episode, task="../up"))
    with pytest.raises(UserError, match="Did you mean 'states'"):
        out.add("0", episode, {"state": np.zeros((4, 2))})
    with pytest.raises(UserError, match="each of the 4 actions"):
        out.add("0", episode, {"states": np.zeros((3, 2))})
    out.add("0", episode)
    out.add("1", replace(episode, instruction="something else"))
    with pytest.raises(UserError, match="two instructions"):
        out.finish()
    with pytest.raises(UserError, match="other settings"):
        writer(tmp_path, section={"noise": 0.2})
    out.finish(["0"])
    assert writer(tmp_path).finished
    with pytest.raises(UserError, match="other settings"):
        writer(tmp_path, section={"noise": 0.2})
    official(tmp_path / "foreign")
    with pytest.raises(UserError, match="other settings"):
        writer(tmp_path / "foreign")


def test_our_own_files_need_no_alignment(tmp_path):
    out = writer(tmp_path)
    out.add("0", recorded(0, 4, ("agentview",)))
    out.finish()
    with pytest.raises(UserError, match="Leave the option align out"):
        Reader(tmp_path, align=True).episode(0)


def test_our_own_files_say_what_the_benchmark_tells(tmp_path):
    """Their sentence is that of the benchmark they were recorded in, whatever its tasks are called."""
    out = writer(tmp_path)
    out.add("0", recorded(0, 4, ("agentview",)))
    out.finish()
    reader, named = Reader(tmp_path), Reader(tmp_path, instruction="file_name")
    assert (reader.episode(0).instruction, reader.episode(0).task) == ("do thing 0", "task-0")
    assert reader.digest() == Reader(tmp_path, instruction="attribute").digest() != named.digest()
    assert named.episode(0).instruction == "task-0" and named.episode(0).info["evaluated_as"] == "do thing 0"
