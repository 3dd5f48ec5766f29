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
    A frame must lie within half a frame period of its time, else the video does not belong to the table. A file that
    is no video, or a broken one, is refused with a sentence that names it.
    """

    def __init__(self, path: Path, times: npt.NDArray[np.float64], fps: float) -> None:
        if not np.isfinite(times).all():
            raise refuse(f"A time of the frames of {path} is not a number", todo="Mend the table's timestamps.")
        self._path, self._times, self._tolerance = path, times, 0.5 / fps

    def __len__(self) -> int:
        return len(self._times)

    def __getitem__(self, index: int, /) -> Image:
        return next(self._decode(self._times[index : index + 1] if index >= 0 else self._times[index:][:1]))

    def __iter__(self) -> Iterator[Image]:
        return self._decode(self._times)

    def _decode(self, times: npt.NDArray[np.float64]) -> Iterator[Image]:
        if not len(times):
            return
        done = 0
        try:
            with av.open(str(self._path)) as container:
                for shown, frame in self._shown(container, float(times[0])):
                    if shown < times[done] - self._tolerance:
                        continue
                    if shown > times[done] + self._tolerance:
                        break
                    picture: Image = frame.to_ndarray(format="rgb24")
                    while done < len(times) and abs(shown - times[done]) <= self._tolerance:
                        yield picture
                        done += 1
                    if done == len(times):
                        return
        except av.FFmpegError as error:
            raise self._broken(f"{error.strerror or error}") from error
        raise refuse(
            f"{self._path} has no frame at {times[done]:.3f} s",
            possible=f"a frame within {self._tolerance:.3f} s of every row's timestamp",
            todo="Fetch the video again: it does not belong to the table, or was cut short.",
        )

    def _shown(self, container: Any, first: float) -> Iterator[tuple[float, Any]]:
        """Frames with their time in seconds, from the key frame at or before ``first`` on."""
        if not container.streams.video:
            raise self._broken("it has no pictures")
        stream = container.streams.video[0]
        if not stream.time_base:
            raise self._broken("it has no clock")
        container.seek(int(max(first, 0.0) / stream.time_base), stream=stream)
        # times count from the start of the file; some encoders give the first frame a later stamp
        origin = float((stream.start_time or 0) * stream.time_base)
        for frame in container.decode(stream):
            if frame.time is None:
                raise self._broken("a frame has no time")
            yield frame.time - origin, frame

    def _broken(self, what: str) -> UserError:
        size = self._path.stat().st_size if self._path.is_file() else 0
        return refuse(
            f"{self._path} ({size} bytes) cannot be read as a video: {what}",
            possible="an mp4 file that FFmpeg decodes",
            todo="Fetch the video again, or leave its episode or camera out with the options episodes or cameras.",
        )
