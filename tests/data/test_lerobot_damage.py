"""Damaged LeRobot sets: every one is refused with a sentence that names the file."""

import json

import h5py
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_data import cameras, dataset, spec
from test_lerobot_faults import MADE, READERS, both, change_info, change_table, second_table
from test_lerobot_v21_made_up import made_up, video
from test_mp4 import KEY, video_set

from vlm4vla.data.readers import _hdf5, lerobot_v3, lerobot_v21
from vlm4vla.types import UserError


@pytest.mark.parametrize("name", ["meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"])
def test_a_broken_index_of_v3_is_refused(tmp_path, name):
    root = video_set(tmp_path)
    file = root / name
    good = file.read_bytes()
    for content in (b"", good[: len(good) // 2], good[:8] + b"\xff" * 40 + good[48:]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"{file.name} cannot be read"):
            lerobot_v3.Reader(root)
    file.unlink()
    with pytest.raises(UserError, match=r"tasks\.parquet cannot be read|lists no episodes"):
        lerobot_v3.Reader(root)


def test_an_index_of_v3_without_its_columns_is_refused(tmp_path):
    root = video_set(tmp_path)
    tasks, episodes = root / "meta/tasks.parquet", root / "meta/episodes/chunk-000/file-000.parquet"
    good = tasks.read_bytes(), pq.read_table(episodes)
    for frame in ({"task_index": [0, 1]}, {"task_index": [0], "task": [None]}, {"task": ["push"]}):
        pq.write_table(pa.table(frame), tasks)
        with pytest.raises(UserError, match="has the columns"):
            lerobot_v3.Reader(root)
    pq.write_table(pa.table({"task_index": [0, 1], "task": pa.array(["a", None])}), tasks)
    with pytest.raises(UserError, match="empty cell"):
        lerobot_v3.Reader(root)
    tasks.write_bytes(good[0])
    for name in ("data/file_index", f"videos/{KEY}/from_timestamp"):
        pq.write_table(good[1].drop_columns([name]), episodes)
        with pytest.raises(UserError, match=f"Row 0 of .* has no {name}"):
            lerobot_v3.Reader(root)


def test_truncated_tables_of_v3_are_refused(tmp_path):
    root = video_set(tmp_path)
    file = root / "data/chunk-000/file-000.parquet"
    good = file.read_bytes()
    for content in (good[: len(good) // 2], b"", good[:4] + b"\xff" * (len(good) // 2) + good[4 + len(good) // 2 :]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"file-000\.parquet cannot be read"):
            lerobot_v3.Reader(root).episode(0)


@both
def test_rows_of_lists_of_other_lengths_are_refused(tmp_path, version):
    root = MADE[version](tmp_path)
    file, first = second_table(root, version)
    change_table(file, action=lambda v: [*v[: first + 1], v[first + 1][:3], [*v[first + 2], 0.0], *v[first + 3 :]])
    with pytest.raises(UserError, match="4 numbers in every row"):
        READERS[version](root, spec()).episode(1)


@both
def test_names_of_a_camera_in_a_mapping(tmp_path, version):
    root = MADE[version](tmp_path)
    for names in ({"axes": ["channels", "height", "width"]}, {"height": 1, "width": 2, "channels": 0}):
        change_info(root, lambda info, names=names: info["features"][KEY].update(names=names))
        assert READERS[version](root, spec()).cameras == cameras("top", size=(16, 32))
    change_info(root, lambda info: info["features"][KEY].update(names={"height": 16, "width": 32}))
    with pytest.raises(UserError, match=r"Camera observation\.images\.top of .* has the names .*three names"):
        READERS[version](root, spec())


@pytest.mark.parametrize("name", ["tasks", "episodes"])
def test_broken_text_of_v21_is_refused_with_its_line(tmp_path, name):
    root = made_up(tmp_path)
    file = root / f"meta/{name}.jsonl"
    line = b'{"task_index": 2, "task": "caf\xe9", "episode_index": 2, "length": 1}\n'
    lines = file.read_bytes().count(b"\n")
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(UserError, match=rf"Line {lines + 1} of .*{name}\.jsonl .*UTF-8"):
        lerobot_v21.Reader(root, spec())


def test_a_separator_inside_a_text_ends_no_line(tmp_path):
    root = made_up(tmp_path)
    text = "push\u2028hard"
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": text}, ensure_ascii=False), "utf-8")
    assert lerobot_v21.Reader(root, spec(), episodes="0").episode(0).instruction == text


@both
def test_a_blank_instruction_is_refused(tmp_path, version):
    root = MADE[version](tmp_path)
    if version == "v21":
        (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": " "}\n{"task_index": 1, "task": "pull"}\n')
    else:
        frame = pd.DataFrame({"task_index": [0, 1]}, index=["\t", "do thing 1"])
        pq.write_table(pa.Table.from_pandas(frame), root / "meta/tasks.parquet")
    assert READERS[version](root, spec()).episode(1).instruction
    with pytest.raises(UserError, match=r"Episode 0 of .* has a blank instruction \(task 0\)"):
        READERS[version](root, spec()).episode(0)


def test_junk_for_a_picture_is_named_with_camera_episode_and_frame(tmp_path):
    dataset(tmp_path, lengths=(4, 3))
    file = tmp_path / "data/chunk-000/file-000.parquet"
    column = "observation.images.wrist"
    good = file.read_bytes()
    change_table(file, **{column: lambda v: [*v[:6], {"bytes": b"\x80\x04.", "path": ""}]})
    frames = lerobot_v3.Reader(tmp_path).episode(1).images["wrist"]
    where = rf"Frame 2 of camera {column} of episode 1 of .* is no picture"
    for look in (lambda: frames[2], lambda: list(frames), lambda: frames.are_png(8, 12)):
        with pytest.raises(UserError, match=where):
            look()
    assert frames[1].shape == (8, 12, 3)
    file.write_bytes(good)
    change_table(file, **{column: lambda v: ["picture.png"] * 7})
    with pytest.raises(UserError, match="names picture files"):
        lerobot_v3.Reader(tmp_path).episode(1)


def test_a_v21_set_that_lacks_a_video_is_still_told_at_once(tmp_path):
    root = made_up(tmp_path)
    video(root).unlink()
    with pytest.raises(UserError, match="of episode 1 there is no file"):
        lerobot_v21.Reader(root, spec())


@pytest.mark.parametrize("fixed", [True, False])
def test_broken_text_of_hdf5_is_refused(tmp_path, fixed):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        kind = h5py.string_dtype("utf-8", 5 if fixed else None)
        for name, said in (("good", "caf\u00e9".encode()), ("bad", b"caf\xe9")):
            file.attrs.create(name, said, dtype=kind)
    with _hdf5.opened(tmp_path / "a.hdf5") as file:
        assert _hdf5.text(file, "good") == "caf\u00e9"
        with pytest.raises(UserError, match="attribute bad cannot be used: it is no text in UTF-8"):
            _hdf5.text(file, "bad")
