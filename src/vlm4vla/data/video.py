"""Frames of an mp4 file by their timestamps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vlm4vla.types import Image, UserError, refuse


class VideoFrames:
    """A lazy sequence of the frames of ``path`` that are shown at ``times`` (N, ascending, seconds from its start).

    Iterating decodes the file once from the key frame before the first time, in constant memory; indexing seeks.
    Of the frames the nearest is taken (the earlier of two equally near ones); it must lie within half a frame period
    of its time, else the video does not belong to the table. ``size`` is the (height, width) that frames must have.
    A file that is no video, or a broken one, is refused with a sentence that names it.
    """

    def __init__(self, path: Path, times: npt.NDArray[np.float64], fps: float, size: tuple[int, int]) -> None:
        if not np.isfinite(times).all():
            raise refuse(f"A time of the frames of {path} is not a number", todo="Mend the table's timestamps.")
        self._path, self._times, self._tolerance, self._size = path, times, 0.5 / fps, size

    def __len__(self) -> int:
        return len(self._times)

    def __getitem__(self, index: int, /) -> Image:
        return next(self._decode(self._times[[index]]))

    def __iter__(self) -> Iterator[Image]:
        return self._decode(self._times)

    def _decode(self, times: npt.NDArray[np.float64]) -> Iterator[Image]:
        if not len(times):
            return
        done = 0
        before: tuple[float, Any] | None = None
        try:
            with av.open(str(self._path)) as container:
                for shown in self._shown(container, float(times[0])):
                    while times[done] <= shown[0]:  # the nearest frame is this one or the one before
                        nearer = before is not None and times[done] - before[0] <= shown[0] - times[done]
                        yield self._picture(before if nearer else shown, times[done])
                        done += 1
                        if done == len(times):
                            return
                    before = shown
                for time in times[done:]:  # after the last frame
                    yield self._picture(before, time)
        except av.FFmpegError as error:
            raise self._broken(f"{error.strerror or error}") from error

    def _picture(self, shown: tuple[float, Any] | None, time: float) -> Image:
        if shown is None or abs(shown[0] - time) > self._tolerance:
            raise refuse(
                f"{self._path} has no frame at {time:.3f} s",
                possible=f"a frame within {self._tolerance:.3f} s of every row's timestamp",
                todo="Fetch the video again: it does not belong to the table, or was cut short.",
            )
        self._check_size(shown[1])
        picture: Image = shown[1].to_ndarray(format="rgb24")
        return picture

    def _shown(self, container: Any, first: float) -> Iterator[tuple[float, Any]]:
        """Frames with their time in seconds, from one at or before ``first`` on (or from the first one)."""
        if not container.streams.video:
            raise self._broken("it has no pictures")
        stream = container.streams.video[0]
        if not stream.time_base:
            raise self._broken("it has no clock")
        self._check_size(stream.codec_context)
        # times count from the start of the file; some encoders give the first frame a later stamp
        origin = float((stream.start_time or 0) * stream.time_base)
        for start in (max(first, 0.0), 0.0):
            container.seek(int((start + min(origin, 0.0)) / stream.time_base), stream=stream)
            frames = self._timed(container.decode(stream), origin)
            head = next(frames, None)
            # a key frame may be shown later than its place in the file says: then from the start
            if head is not None and (head[0] <= first or not start):
                yield head
                yield from frames
                return

    def _timed(self, frames: Iterator[Any], origin: float) -> Iterator[tuple[float, Any]]:
        for frame in frames:
            if frame.time is None:
                raise self._broken("a frame has no time")
            yield frame.time - origin, frame

    def _check_size(self, seen: Any) -> None:
        """Refuse a stream or frame of another size than info.json's, before it is converted."""
        if (seen.height, seen.width) != self._size:
            raise refuse(
                f"The pictures of {self._path} are {seen.height} x {seen.width} (height x width)",
                possible=f"{self._size[0]} x {self._size[1]}, as info.json says",
                todo="Fetch the video and meta/info.json again: they do not belong together.",
            )

    def _broken(self, what: str) -> UserError:
        size = self._path.stat().st_size if self._path.is_file() else 0
        return refuse(
            f"{self._path} ({size} bytes) cannot be read as a video: {what}",
            possible="an mp4 file that FFmpeg decodes",
            todo="Fetch the video again, or leave its episode or camera out with the options episodes or cameras.",
        )
