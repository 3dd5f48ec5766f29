"""The videos of the report: which ones are shown, their posters, and whether they are embedded or lie beside the page.

Per arm and task the first recorded episode is shown, success or failure: a rule nobody can use to pick the prettiest.
"""

import base64
import hashlib
import io
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from vlm4vla.records import EpisodeRow, disk_error, write_atomic
from vlm4vla.report.folder import Study, TableRow
from vlm4vla.types import refuse

EMBED_LIMIT = 25_000_000
"""Bytes of video files that go into the page itself; the rest is copied beside it."""


@dataclass(frozen=True)
class Clip:
    """One video of the grid. ``source``: data URI or relative link; null with a ``fault`` to print instead."""

    arm: str
    task: str
    instruction: str | None
    row: EpisodeRow
    source: str | None
    poster: str | None
    embedded: bool
    fault: str | None


def clips(study: Study, out: Path, embed_limit: int) -> list[Clip]:
    """One clip per arm and task that has a recorded episode; writes those beyond ``embed_limit`` to OUT/videos."""
    found: list[Clip] = []
    spent = 0
    for table_row in study.table:
        if table_row.kind != "arm":
            continue
        for task in study.file.tasks:
            recorded = [r for r in table_row.rows if r.task == task and r.video is not None]
            if not recorded:
                continue
            clip, size = _clip(study, table_row, min(recorded, key=lambda r: r.episode), out, embed_limit - spent)
            spent += size
            found.append(clip)
    return found


def _clip(study: Study, table_row: TableRow, row: EpisodeRow, out: Path, room: int) -> tuple[Clip, int]:
    """The clip of one episode, and how many bytes of it were embedded."""
    assert row.video is not None
    instruction = study.file.instructions.get(row.task)
    path = inside(table_row.folder, row.video)
    source, image, fault, embedded = None, None, None, False
    if not path.is_file():
        fault = "The video file is missing."
    else:
        image = poster(path)
        if image is None:
            fault = "The video file cannot be decoded."
        else:
            data = path.read_bytes()
            embedded = len(data) <= room
            source = _data_uri("video/mp4", data) if embedded else _beside(data, out)
    spent = path.stat().st_size if embedded else 0
    return Clip(table_row.label, row.task, instruction, row, source, image, embedded, fault), spent


def inside(folder: Path, relative: str) -> Path:
    """A path within ``folder``; one that leads out is refused, so that a row cannot publish a private file."""
    path = folder / relative
    if not path.resolve().is_relative_to(folder.resolve()):
        raise refuse(
            f"Video path {relative!r} leads out of {folder}",
            possible="a path relative to the evaluation folder, below it",
            todo="Restore the rows from the run that wrote them.",
        )
    return path


def poster(path: Path) -> str | None:
    """The last frame as a JPEG data URI (it shows the outcome, also in print); null if unreadable."""
    try:
        with av.open(str(path)) as container:
            last = deque(container.decode(video=0), maxlen=1)
    except (av.FFmpegError, IndexError):  # not a video, or one without a picture stream
        return None
    if not last:
        return None
    image: Image.Image = last[0].to_image()
    image.thumbnail((320, 320))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return _data_uri("image/jpeg", buffer.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _beside(data: bytes, out: Path) -> str:
    """Copy to OUT/videos under a name made of the content, and return the relative link."""
    name = f"{hashlib.sha256(data).hexdigest()[:16]}.mp4"
    try:
        write_atomic(out / "videos" / name, data)
    except OSError as error:
        raise disk_error(out / "videos", error) from error
    return f"videos/{name}"
