"""LeRobot v2.1: made-up sets with every grey of a frame known, and hostile ones."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_data import spec
from test_mp4 import FPS, greys, write_video

from vlm4vla.data.readers.lerobot_v21 import Reader
from vlm4vla.data.video import VideoFrames
from vlm4vla.types import UserError

# A made-up set: episodes of 6 and 9 frames, the second one's video starts at another grey.


def made_up(root: Path, **changes) -> Path:
    lengths = (6, 9)
    features = {
        "observation.images.top": {"dtype": "video", "shape": [3, 16, 32], "names": ["channels", "height", "width"]},
        "action": {"dtype": "float32", "shape": [4], "names": None},
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    info = {
        "codebase_version": "v2.1",
        "fps": FPS,
        "chunks_size": 1,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    } | changes
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    rows = [{"episode_index": n, "length": length, "tasks": []} for n, length in enumerate(lengths)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "push"}\n\n{"task_index": 1, "task": "pull"}\n')
    for n, length in enumerate(lengths):
        random = np.random.default_rng(n)
        table = pa.table(
            {
                "action": list(random.uniform(-1, 1, (length, 4)).astype(np.float32)),
                "frame_index": np.arange(length),
                "timestamp": pa.array(np.arange(length, dtype=np.float32) / FPS),
                "episode_index": np.full(length, n),
                "task_index": np.full(length, n),
            }
        )
        folder = root / f"data/chunk-{n:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"episode_{n:06d}.parquet")
        write_video(root / f"videos/chunk-{n:03d}/observation.images.top/episode_{n:06d}.mp4", length)
    return root


@pytest.mark.parametrize("version", ["v2.1", "v2.0"])
def test_one_file_per_episode_is_read(tmp_path, version):
    reader = Reader(made_up(tmp_path, codebase_version=version), spec())
    assert [reader.episode(i).instruction for i in range(2)] == ["push", "pull"]
    assert [greys(reader.episode(i).images["top"]) for i in range(2)] == [list(range(6)), list(range(9))]
    assert (reader.cameras[0].height, reader.cameras[0].width) == (16, 32)
    assert reader.episode(0).states is None
    with pytest.raises(IndexError):
        reader.episode(2)


def test_a_camera_of_videos_gets_another_name(tmp_path):
    reader = Reader(made_up(tmp_path), spec(), cameras="top=agentview")
    assert [c.name for c in reader.cameras] == ["agentview"]
    assert greys(reader.episode(1).images["agentview"]) == list(range(9))


def video(root: Path) -> Path:
    return root / "videos/chunk-001/observation.images.top/episode_000001.mp4"


def test_broken_videos_are_refused_with_a_sentence(tmp_path):
    root = made_up(tmp_path)
    whole = video(root).read_bytes()
    for content, size in ((b"", 0), (whole[: len(whole) // 2], len(whole) // 2), (b"\0" * 5000, 5000)):
        video(root).write_bytes(content)
        with pytest.raises(UserError, match=rf"episode_000001\.mp4 \({size} bytes\) cannot be read as a video"):
            list(Reader(root, spec()).episode(1).images["top"])
    with av.open(str(video(root)), "w") as container:  # sound, and no picture
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="no pictures"):
        Reader(root, spec()).episode(1).images["top"][0]
    write_video(video(root), 7)
    with pytest.raises(UserError, match=r"no frame at 0\.350 s"):
        list(Reader(root, spec()).episode(1).images["top"])
    with pytest.raises(UserError, match="not a number"):
        VideoFrames(video(root), np.array([0.0, np.nan]), FPS, (16, 32))


def test_tables_that_do_not_belong_are_refused(tmp_path):
    root = made_up(tmp_path)
    first, second = (root / f"data/chunk-{n:03d}/episode_{n:06d}.parquet" for n in range(2))
    good = pq.read_table(second)

    def told(table: pa.Table, match: str) -> None:
        pq.write_table(table, second)
        with pytest.raises(UserError, match=match):
            Reader(root, spec()).episode(1)

    told(good.slice(1), r"has 8 rows of the episodes \[1\]")
    told(good.drop_columns(["action"]), "action")
    told(good.set_column(0, "action", pa.array([b"\x80\x04."] * 9)), "not what info.json says it is: binary")
    told(good.set_column(0, "action", pa.array([[1.0, 2.0, 3.0, None]] * 9)), "not finite")
    told(good.set_column(0, "action", pa.array([None] + [[1.0, 2.0, 3.0, 1.0]] * 8)), "not what info.json says")
    told(good.set_column(0, "action", pa.array([[1.0]] * 9)), "4 numbers in every row")
    told(good.set_column(4, "task_index", pa.array([0] * 4 + [1] * 5)), "changes its instruction")
    told(good.set_column(4, "task_index", pa.array([7] * 9)), r"tasks \[7\]")
    shutil.copy(first, second)
    with pytest.raises(UserError, match="6 rows of the episodes"):
        Reader(root, spec()).episode(1)
    second.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        Reader(root, spec()).episode(1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"codebase_version": "v3.0"}, r"of v3\.0"),
        ({"data_path": "../data/{episode_index}.parquet"}, "lies outside"),
        ({"data_path": "data/{episode_index:0999999999d}"}, "path template"),
        ({"data_path": "data/{episode_index.__class__}"}, "path template"),
        ({"data_path": "data/{episode}"}, "path template"),
        ({"video_path": "/etc/hostname"}, "lies outside"),
        ({"video_path": None}, "no usable video_path"),
        ({"chunks_size": 0}, "chunks_size"),
        ({"fps": 0}, "not whole: fps"),
        ({"features": {"action": {"dtype": "float32", "shape": ["many"]}}}, "not whole: features"),
    ],
)
def test_hostile_index_files_are_refused(tmp_path, changes, match):
    made_up(tmp_path, **changes)
    with pytest.raises(UserError, match=match):
        Reader(tmp_path, spec())


@pytest.mark.parametrize("line", ["{", "[]", '{"episode_index": "0", "length": 3}', '{"episode_index": 0}'])
def test_a_torn_index_is_named_with_its_line(tmp_path, line):
    root = made_up(tmp_path)
    file = root / "meta/episodes.jsonl"
    file.write_text(file.read_text() + line)
    with pytest.raises(UserError, match=r"Line 3 of .*episodes\.jsonl"):
        Reader(root, spec())
    file.unlink()
    with pytest.raises(UserError, match="no file"):
        Reader(root, spec())
