"""Frames of an episode as a small video that any browser plays."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from vlm4vla.records import disk_error

_SMALLEST_SIDE = 192  # pixels; smaller pictures are enlarged by a whole factor so that a player shows sharp pixels
# Macroblock trees are off because x264's differ from run to run (seen in 35 of 420 encodings of the same frames).
_H264 = {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
_VP9 = {"crf": "24", "b": "0", "threads": "1", "cpu-used": "4"}
_CHOICES: tuple[tuple[str, str, str, dict[str, str], dict[str, str]], ...] = (
    # codec, container, suffix, codec options, container options
    ("libx264", "mp4", ".mp4", _H264, {"movflags": "+faststart"}),
    ("libvpx-vp9", "webm", ".webm", _VP9, {}),
)


def write_mp4(path: Path, frames: npt.NDArray[np.uint8], fps: float) -> Path:
    """Write (N, H, W, 3) uint8 RGB frames, ``fps`` a second; returns the path of the file.

    H.264 in MP4; only where this build of FFmpeg lacks libx264, VP9 in WebM (the suffix changes, hence the return
    value). The same frames give the same bytes. A reader sees the whole file or none.
    """
    assert frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8 and len(frames), frames.shape
    codec, container, suffix, options, movie = next(c for c in _CHOICES if c[0] in av.codecs_available)
    target = path.with_suffix(suffix)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(partial), "w", format=container, options=movie) as out:
            stream = out.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.pix_fmt = "yuv420p"
            big = enlarged(frames[0])
            stream.height, stream.width = big.shape[:2]
            for frame in frames:
                for packet in stream.encode(av.VideoFrame.from_ndarray(enlarged(frame), format="rgb24")):
                    out.mux(packet)
            for packet in stream.encode():
                out.mux(packet)
        with partial.open("rb") as f:
            os.fsync(f.fileno())
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise disk_error(target, error) from error
    return target


def enlarged(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) with every pixel repeated until the smaller side has 192; an odd side gets its last line twice.

    (yuv420p halves both sides of the colour planes, so they must be even.)
    """
    height, width = frame.shape[:2]
    factor = max(1, -(-_SMALLEST_SIDE // min(height, width)))
    big = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    odd = (big.shape[0] % 2, big.shape[1] % 2)
    return np.pad(big, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else big
