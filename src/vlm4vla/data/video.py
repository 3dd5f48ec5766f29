"""Frames of an mp4 file by their timestamps."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from vlm4vla.types import Image, refuse


class VideoFrames:
    """A lazy sequence of the frames of ``path`` that are shown at ``times`` (N, ascending, seconds from its start).

    Iterating decodes the file once from the key frame before the first time, in constant memory; indexing seeks.
    A frame must lie within half a frame period of its time, else the video does not belong to the table.
    """

    def __init__(self, path: Path, times: npt.NDArray[np.float64], fps: float) -> None:
        self._path, self._times, self._tolerance = path, times, 0.5 / fps

    def __len__(self) -> int:
        return len(self._times)

    def __getitem__(self, index: int, /) -> Image:
        return next(self._decode(self._times[index : index + 1] if index >= 0 else self._times[index:][:1]))

    def __iter__(self) -> Iterator[Image]:
        return self._decode(self._times)

    def _decode(self, times: npt.NDArray[np.float64]) -> Iterator[Image]:
        done = 0
        with av.open(str(self._path)) as container:
            stream = container.streams.video[0]
            container.seek(int(max(times[0], 0.0) / stream.time_base), stream=stream)
            # times count from the start of the file; some encoders give the first frame a later stamp
            origin = float((stream.start_time or 0) * stream.time_base)
            for frame in container.decode(stream):
                shown = frame.time - origin
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
        raise refuse(
            f"{self._path} has no frame at {times[done]:.3f} s",
            possible=f"a frame within {self._tolerance:.3f} s of every row's timestamp",
            todo="Fetch the video again: it does not belong to the table, or was cut short.",
        )
