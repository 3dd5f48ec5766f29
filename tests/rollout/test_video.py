import errno
from pathlib import Path

import av
import numpy as np
import pytest

from vlm4vla.rollout.video import enlarged, write_mp4
from vlm4vla.types import RunFailed


def moving_square(count: int = 12, height: int = 33, width: int = 48) -> np.ndarray:
    frames = np.full((count, height, width, 3), (20, 60, 120), np.uint8)
    for i in range(count):
        frames[i, 8:24, 2 * i : 2 * i + 16] = (230, 200, 30)
    return frames


def test_what_was_written_is_what_a_player_shows(tmp_path: Path) -> None:
    frames = moving_square()
    path = write_mp4(tmp_path / "deep" / "a.mp4", frames, fps=12.5)
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 12.5)
        shown = [f.to_ndarray(format="rgb24") for f in video.decode(stream)]
    assert len(shown) == len(frames)
    for want, got in zip(frames, shown, strict=True):
        assert got.shape == enlarged(want).shape == (198, 288, 3)
        assert np.abs(got.astype(int) - enlarged(want)).mean() < 4
    assert not list(path.parent.glob(".*")), "no partial file stays behind"


def test_index_comes_first_and_bytes_repeat(tmp_path: Path) -> None:
    a, b = (write_mp4(tmp_path / name, moving_square(), 10).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert a == b
    assert a.index(b"moov") < a.index(b"mdat"), "a browser can start before the file is complete"


@pytest.mark.parametrize(("side", "size"), [(96, 192), (33, 198), (64, 192), (201, 202), (480, 480)])
def test_enlarged_sides_are_even_whole_multiples(side: int, size: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    big = enlarged(picture)
    assert big.shape == (size, size, 3)
    assert (big[:: size // side, :: size // side][:side, :side] == picture).all()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunFailed, match=r"Cannot write .*a\.mp4: the disk is full"):
        write_mp4(tmp_path / "a.mp4", moving_square(), 10)
    assert not list(tmp_path.iterdir())
