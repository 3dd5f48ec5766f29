"""Spoilt and hostile CALVIN data sets. The frames are made up: there are no real ones here."""

import os
from pathlib import Path

import numpy as np
import pytest
from calvin_data import alter, annotations, dataset

from vlm4vla.data.formats import calvin_layout as layout
from vlm4vla.data.readers.calvin import Reader
from vlm4vla.types import UserError


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"split": "train"}, "Did you mean 'training'"),
        ({"split": "validation"}, "no folder 'validation'.*training"),
        ({"actions": "rel"}, "Possible: relative, absolute"),
        ({"windows": "lang"}, "Possible: language, all"),
        ({"cameras": "statik"}, "Did you mean 'static'"),
        ({"cameras": "static,static"}, "named twice"),
    ],
)
def test_unknown_options_are_refused(tmp_path, options, reason):
    dataset(tmp_path)
    with pytest.raises(UserError, match=reason):
        Reader(tmp_path, **options)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rel_actions": None}, "no array 'rel_actions'"),
        ({"rel_actions": np.zeros(8)}, r"shape \(8,\)"),
        ({"rel_actions": np.array([0, 0, 0, 0, 0, 0, 0.5])}, "has gripper 0.5.*-1 or"),
        ({"rel_actions": np.array([0, 0, 0, 0, 0, 0, 0.0])}, "has gripper 0.0"),
        ({"rel_actions": np.array([0, 0, 1.2, 0, 0, 0, 1])}, r"has dz 1\.2.*-1\.0 to 1\.0 0\.02 m"),
        ({"robot_obs": np.zeros((15, 1))}, "robot_obs"),
        ({"robot_obs": np.array([{}] * 15)}, "pickled objects"),
    ],
)
def test_a_spoilt_frame_is_named(tmp_path, changes, reason):
    reader = dataset(tmp_path, (3, 2))
    alter(tmp_path / "training/episode_0000004.npz", **changes)
    assert reader.episode(0).length == 3
    with pytest.raises(UserError, match=reason) as caught:
        reader.episode(1)
    assert "episode_0000004.npz" in str(caught.value)


def test_missing_frames_and_numbers_that_are_none_are_named(tmp_path):
    reader = dataset(tmp_path, (3, 2))
    alter(tmp_path / "training/episode_0000001.npz", robot_obs=np.full(15, np.inf))
    alter(tmp_path / "training/episode_0000000.npz", rel_actions=np.array([np.nan] * 6 + [1.0]))
    (tmp_path / "training/episode_0000004.npz").unlink()
    with pytest.raises(UserError, match=r"training/episode_0000004\.npz is missing"):
        reader.episode(1)
    with pytest.raises(UserError, match="action of frame 0 is not finite"):
        reader.episode(0)


def test_pictures_of_another_size_are_refused_when_they_are_read(tmp_path):
    reader = dataset(tmp_path, (2,))
    alter(tmp_path / "training/episode_0000001.npz", rgb_static=np.zeros((96, 96, 3), np.uint8))
    frames = reader.episode(0).images["static"]
    assert frames[0].shape == (200, 200, 3)
    with pytest.raises(UserError, match=r"'rgb_static' of .*0000001\.npz has shape \(96, 96, 3\)"):
        frames[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["language"].pop("task"), "KeyError 'task'"),
        (lambda d: d["language"]["ann"].pop(), "argument"),
        (lambda d: d["language"]["ann"].__setitem__(1, ""), "text 1 is ''"),
        (lambda d: d["language"]["ann"].__setitem__(1, 7), "text 1 is 7"),
        (lambda d: d["info"]["indx"].__setitem__(1, (5, 4)), "frames 5 to 4"),
        (lambda d: d["info"]["indx"].__setitem__(1, (-1, 4)), "frames -1 to 4"),
        (lambda d: d["info"]["indx"].__setitem__(1, (0.0, 4.0)), "float64"),
        (lambda d: d["info"]["indx"].__setitem__(1, (0, 1, 2)), "ValueError"),
        (lambda d: d.__setitem__("language", 3), "TypeError"),
    ],
)
def test_spoilt_annotations_are_refused(tmp_path, change, reason):
    dataset(tmp_path)
    file, data = annotations(tmp_path)
    change(data)
    np.save(file, data)
    with pytest.raises(UserError, match=f"holds no CALVIN annotations: .*{reason}"):
        Reader(tmp_path)


class Evil:
    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self):
        return os.system, (f"touch {self.ran}",)


def test_hostile_annotations_and_scenes_are_not_run(tmp_path):
    dataset(tmp_path)
    file, data = annotations(tmp_path)
    ran = tmp_path / "ran"
    np.save(file, data | {"more": Evil(ran)})
    with pytest.raises(UserError, match=r"wants to run 'posix\.system'; nothing of it was executed"):
        Reader(tmp_path)
    np.save(file, data)
    np.save(tmp_path / "training" / layout.SCENES, {"calvin_scene_A": Evil(ran)})
    with pytest.raises(UserError, match=r"scene_info\.npy wants to run"):
        Reader(tmp_path)
    np.save(tmp_path / "training" / layout.SCENES, {"calvin_scene_A": 3})
    with pytest.raises(UserError, match="holds no scenes"):
        Reader(tmp_path)
    np.save(tmp_path / "training" / layout.RECORDINGS, np.array([[0, 1], [Evil(ran), 2]], object))
    (tmp_path / "training" / layout.SCENES).unlink()
    with pytest.raises(UserError, match="pickled objects"):
        Reader(tmp_path, windows="all", instruction="play")
    np.save(tmp_path / "training" / layout.RECORDINGS, np.zeros((3, 3), int))
    with pytest.raises(UserError, match="holds no recordings"):
        Reader(tmp_path, windows="all", instruction="play")
    assert not ran.exists()
