"""LeRobot sets that do not agree with their action spec or with themselves, or that lie in a Hugging Face cache."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_data import spec
from test_lerobot_v21_made_up import made_up
from test_mp4 import FPS, KEY, greys, video_set

from vlm4vla.data.readers import _digest, _lerobot_files, lerobot_v3, lerobot_v21
from vlm4vla.types import ActionSpec, UserError

MADE = {"v21": lambda root: made_up(root), "v3": lambda root: video_set(root)}
READERS = {"v21": lerobot_v21.Reader, "v3": lerobot_v3.Reader}
both = pytest.mark.parametrize("version", ["v21", "v3"])


def change_info(root: Path, change) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    change(info)
    (root / "meta/info.json").write_text(json.dumps(info))


def change_table(file: Path, **new) -> None:
    """Replace columns of a table by the values that a function makes of the old ones."""
    table = pq.read_table(file)
    for name, change in new.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(change(table.column(name).to_pylist())))
    pq.write_table(table, file)


def permuted() -> ActionSpec:
    d0, d1, d2, gripper = spec().dimensions
    return replace(spec(), dimensions=(d1, d0, d2, gripper))


@both
def test_another_control_rate_is_refused_with_both_numbers(tmp_path, version):
    root = MADE[version](tmp_path)
    with pytest.raises(UserError, match=r"has 20 fps, the action spec a control_hz of 10\..*resample"):
        READERS[version](root, spec(hz=10.0))


@both
@pytest.mark.parametrize(
    "names",
    [["d0", "d1", "d2", "gripper"], {"m": ["d0", "d1", "d2", "gripper"]}, {"gripper": 3, "d1": 1, "d2": 2, "d0": 0}],
)
def test_named_numbers_in_another_order_are_refused(tmp_path, version, names):
    root = MADE[version](tmp_path)
    change_info(root, lambda info: info["features"]["action"].update(names=names))
    assert len(READERS[version](root, spec())) == 2
    with pytest.raises(UserError, match="action numbers d0, d1, d2, gripper, the action spec says d1, d0, d2, gripper"):
        READERS[version](root, permuted())
    for other in (["a", "b", "c", "d"], None, ["d0", "d1"]):  # they do not say the order
        change_info(root, lambda info, other=other: info["features"]["action"].update(names=other))
        assert len(READERS[version](root, permuted())) == 2


def test_names_across_columns_put_side_by_side_are_compared(tmp_path):
    root = made_up(tmp_path)
    change_info(
        root,
        lambda info: info["features"].update(
            arm={"dtype": "float32", "shape": [3], "names": ["d0", "d1", "d2"]},
            grip={"dtype": "float32", "shape": [1], "names": ["gripper"]},
        ),
    )
    assert len(lerobot_v21.Reader(root, spec(), action="arm,grip")) == 2
    with pytest.raises(UserError, match="action numbers gripper, d0, d1, d2"):
        lerobot_v21.Reader(root, spec(), action="grip,arm")


def second_table(root: Path, version: str) -> tuple[Path, int]:
    """The file that holds episode 1, and its first row there."""
    if version == "v21":
        return root / "data/chunk-001/episode_000001.parquet", 0
    return root / "data/chunk-000/file-000.parquet", 9


def swapped(values: list, row: int) -> list:
    return [*values[:row], values[row + 1], values[row], *values[row + 2 :]]


@both
def test_rows_out_of_order_and_gaps_are_refused_with_episode_and_row(tmp_path, version):
    root = MADE[version](tmp_path)
    file, first = second_table(root, version)
    good = file.read_bytes()

    def told(match: str, **new) -> None:
        file.write_bytes(good)
        change_table(file, **new)
        assert READERS[version](root, spec()).episode(0).length > 0
        with pytest.raises(UserError, match=match):
            READERS[version](root, spec()).episode(1)

    told("Row 2 of episode 1 has the frame_index 3", frame_index=lambda v: swapped(v, first + 2))
    told(
        "Row 3 of episode 1 has the frame_index 4",
        frame_index=lambda v: [*v[: first + 3], *(n + 1 for n in v[first + 3 :])],
    )
    late = np.float32(0.6 / FPS)
    told(
        r"Row 4 of episode 1 has a timestamp 0\.0800 s after the one before it.*steps of 0\.0500 s",
        timestamp=lambda v: np.array([*v[: first + 4], *(t + late for t in v[first + 4 :])], np.float32),
    )
    told("Row 1 of episode 1 has a timestamp nan", timestamp=lambda v: [*v[: first + 1], float("nan"), *v[first + 2 :]])
    file.write_bytes(good)
    change_table(file, timestamp=lambda v: [str(t) for t in v])
    with pytest.raises(UserError, match=r"Column timestamp of .* is not what info\.json says"):
        READERS[version](root, spec()).episode(1)
    file.write_bytes(good)
    pq.write_table(pq.read_table(file).drop_columns(["frame_index"]), file)
    with pytest.raises(UserError, match="has no column frame_index"):
        READERS[version](root, spec()).episode(1)


@both
def test_stamps_of_a_real_recorder_are_taken(tmp_path, version):
    root = MADE[version](tmp_path)
    change_table(second_table(root, version)[0], timestamp=lambda v: [t + 0.2 / FPS * (i % 2) for i, t in enumerate(v)])
    start = 0 if version == "v21" else 9
    length = READERS[version](root, spec()).episode(1).length
    seen = greys(next(iter(READERS[version](root, spec()).episode(1).images.values())))
    assert seen == list(range(start, start + length))


@both
def test_videos_of_another_size_than_info_json_says_are_refused(tmp_path, version):
    root = MADE[version](tmp_path)
    change_info(root, lambda info: info["features"][KEY].update(shape=[3, 32, 16]))
    with pytest.raises(UserError, match=r"are 16 x 32 .*Possible: 32 x 16"):
        READERS[version](root, spec()).episode(1).images["top"][0]


def snapshot(plain: Path, cache: Path) -> Path:
    """The same files as huggingface_hub keeps them: links to blobs, which lie outside of the snapshot."""
    blobs, root = cache / "blobs", cache / "snapshots/0123abcd"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(f for f in plain.rglob("*") if f.is_file())):
        link = root / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        (blobs / f"{number:04d}").write_bytes(file.read_bytes())
        link.symlink_to(os.path.relpath(blobs / f"{number:04d}", link.parent))
    return root


@both
def test_a_hugging_face_cache_is_read_as_it_lies(tmp_path, version):
    plain = MADE[version](tmp_path / "plain")
    root = snapshot(plain, tmp_path / "cache")
    linked, straight = READERS[version](root, spec()), READERS[version](plain, spec())
    assert linked.digest() == straight.digest()
    for i in range(2):
        assert np.array_equal(linked.episode(i).actions, straight.episode(i).actions)
        assert greys(linked.episode(i).images["top"]) == greys(straight.episode(i).images["top"])


@pytest.mark.parametrize("path", ["data/../../x.parquet", "..", "/x.parquet", "data/../meta/{name}"])
def test_paths_that_leave_by_their_letters_are_refused(tmp_path, path):
    with pytest.raises(UserError, match="lies outside"):
        _lerobot_files.fill(tmp_path, {"data_path": path}, "data_path", name="info.json")


def test_a_digest_names_links_by_their_own_names(tmp_path):
    (tmp_path / "blob").write_bytes(b"content")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/a.bin").write_bytes(b"content")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/a.bin").symlink_to("../blob")
    found = [_digest.digest(tmp_path / n, {}, [], [tmp_path / n / "a.bin"]) for n in ("plain", "linked")]
    assert found[0] == found[1]


def test_a_reader_of_v21_looks_for_its_files_once(tmp_path):
    root = made_up(tmp_path)
    frozen = pickle.dumps(lerobot_v21.Reader(root, spec(), episodes="0:2"))
    second_table(root, "v21")[0].unlink()
    copy = pickle.loads(frozen)
    assert len(copy) == 2 and copy.episode(0).instruction == "push"
    with pytest.raises(UserError, match="cannot be read"):
        copy.episode(1)


def test_the_digest_of_a_large_v3_set_reads_the_index_only(tmp_path, monkeypatch):
    root = video_set(tmp_path)
    file = root / f"videos/{KEY}/chunk-000/file-000.mp4"
    whole, content = lerobot_v3.Reader(root).digest(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert lerobot_v3.Reader(root).digest() != whole
    monkeypatch.setattr(_digest, "_WHOLE", 0)
    large = lerobot_v3.Reader(root).digest()
    file.write_bytes(content)
    assert lerobot_v3.Reader(root).digest() == large
    file.write_bytes(content + b"\0")
    assert lerobot_v3.Reader(root).digest() != large
    file.write_bytes(content)
    tasks = root / "meta/tasks.parquet"
    table = pq.read_table(tasks)
    pq.write_table(table.append_column("more", pa.array([0] * len(table))), tasks)
    assert lerobot_v3.Reader(root).digest() != large
