"""Reading of video data sets: every frame of an mp4 has its own grey, so a frame off by one is seen."""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_data import cameras, dataset, spec

from vlm4vla.data.readers.lerobot_v3 import Reader
from vlm4vla.data.video import VideoFrames
from vlm4vla.types import UserError

FPS = 20
SIZE = (16, 32)
KEY = "observation.images.top"


def grey(i: int) -> int:
    return 16 + 8 * i


def write_video(path: Path, frames: int, gop: int = 4, fps: int = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1", "g": str(gop), "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for i in range(frames):
            picture = np.full((16, 32, 3), grey(i), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def greys(frames) -> list[int]:
    return [round((float(f.mean()) - 16) / 8) for f in frames]


def test_frames_are_found_by_time(tmp_path):
    write_video(tmp_path / "v.mp4", 24)
    times = np.arange(7, 19) / FPS
    frames = VideoFrames(tmp_path / "v.mp4", times, FPS, SIZE)
    assert len(frames) == 12 and greys(frames) == list(range(7, 19))
    assert greys([frames[0], frames[11], frames[5], frames[-1]]) == [7, 18, 12, 18]
    assert frames[0].shape == (16, 32, 3) and frames[0].dtype == np.uint8
    jitter = VideoFrames(tmp_path / "v.mp4", times + 0.2 / FPS, FPS, SIZE)  # stamps of a real recorder
    assert greys(jitter) == list(range(7, 19))


def test_the_nearest_frame_is_taken(tmp_path):
    """A video of twice the table's rate, and one whose frames lie between the rows' times."""
    write_video(tmp_path / "v.mp4", 28, fps=2 * FPS)
    for shift, expected in ((0, range(0, 24, 2)), (0.4, range(1, 25, 2)), (-0.2, range(0, 24, 2))):
        frames = VideoFrames(tmp_path / "v.mp4", (np.arange(12) + shift) / FPS, FPS, SIZE)
        assert greys(frames) == [greys([frames[i]])[0] for i in range(12)] == list(expected)
    write_video(tmp_path / "w.mp4", 24)
    for shift in (-0.45, 0.45):
        frames = VideoFrames(tmp_path / "w.mp4", (np.arange(24) + shift) / FPS, FPS, SIZE)
        assert greys(frames) == [greys([frames[i]])[0] for i in range(24)] == list(range(24))
    with pytest.raises(IndexError):
        frames[24]


def test_a_video_of_another_size_is_refused_before_its_frames_are_converted(tmp_path):
    write_video(tmp_path / "v.mp4", 4)
    with pytest.raises(UserError, match=r"v\.mp4 are 16 x 32 \(height x width\).*32 x 16, as info\.json says"):
        VideoFrames(tmp_path / "v.mp4", np.arange(4) / FPS, FPS, (32, 16))[0]


def test_a_video_that_is_too_short_is_refused(tmp_path):
    write_video(tmp_path / "v.mp4", 10)
    with pytest.raises(UserError, match=r"no frame at 0\.500 s"):
        list(VideoFrames(tmp_path / "v.mp4", np.arange(5, 12) / FPS, FPS, SIZE))


def video_set(root: Path) -> Path:
    """A data set of v3.0 of two episodes, 9 and 6 frames, whose pictures stand in one mp4."""
    dataset(root, lengths=(9, 6), names=("top",))
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][KEY] |= {"dtype": "video", "shape": [3, 16, 32], "names": ["channels", "height", "width"]}
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (root / "meta/info.json").write_text(json.dumps(info))
    data = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(data).drop_columns([KEY]), data)
    episodes = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(episodes)
    for name, values in (("chunk_index", [0, 0]), ("file_index", [0, 0]), ("from_timestamp", [0.0, 9 / FPS])):
        table = table.append_column(f"videos/{KEY}/{name}", pa.array(values))
    pq.write_table(table, episodes)
    write_video(root / f"videos/{KEY}/chunk-000/file-000.mp4", 15)
    return root


def test_a_video_data_set_is_read(tmp_path):
    """Two episodes in one mp4, as LeRobot v3.0 stores them; the second begins inside it."""
    root = video_set(tmp_path / "set")
    reader = Reader(root)
    assert reader.cameras == cameras("top", size=(16, 32)) and reader.action_spec == spec()
    assert greys(reader.episode(0).images["top"]) == list(range(9))
    assert greys(reader.episode(1).images["top"]) == list(range(9, 15))
    (root / f"videos/{KEY}/chunk-000/file-000.mp4").unlink()
    with pytest.raises(UserError, match="videos included"):
        reader.episode(0)
