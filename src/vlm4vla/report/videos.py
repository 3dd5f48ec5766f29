"""The videos of the report: which ones are shown as a grid, and where the episode browser finds each of them.

The grid shows the first recorded episode per arm and task, success or failure: a rule nobody can use to pick the
prettiest. Of many arms it shows the first training run each, and as many tasks as fit, in the study's order.
"""

import base64
import hashlib
import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from vlm4vla.records import EpisodeRow, disk_error, write_atomic
from vlm4vla.report.folder import Study, TableRow
from vlm4vla.types import refuse

EMBED_LIMIT = 25_000_000
"""Bytes of video files that go into the page itself; the rest is copied beside it."""
GRID = 48
"""Clips of the grid: more are no overview, and each costs the page a picture. The browser has the others."""


@dataclass(frozen=True)
class Clip:
    """One video of the grid. ``source``: data URI or relative link; null with a ``fault`` to print instead."""

    place: int
    arm: str
    task: str
    instruction: str | None
    row: EpisodeRow
    source: str | None
    poster: str | None
    embedded: bool
    fault: str | None


@dataclass(frozen=True)
class Videos:
    """``sources``: ``#clip-I`` (of the grid), ``@I`` (in ``embedded``), a relative link, or "" (no such file)."""

    clips: list[Clip]
    note: str
    sources: tuple[str, ...]
    embedded: tuple[str, ...]
    copied: int
    places: dict[Path, int]

    def of_row(self, line: TableRow, row: EpisodeRow) -> int | None:
        """The place in ``sources`` of the video of an episode."""
        return None if row.video is None else self.places[line.folder / row.video]


def collect(study: Study, out: Path, embed_limit: int) -> Videos:
    """All recorded episodes: the grid's first, within ``embed_limit`` bytes in the page, others below OUT/videos."""
    shown, note = _grid(study)
    clips: list[Clip] = []
    sources: list[str] = []
    embedded: list[str] = []
    places: dict[Path, int] = {}
    spent = 0
    copied = 0
    for line, row in shown:
        clip, size = _clip(study, len(clips), line, row, out, embed_limit - spent)
        spent += size
        copied += clip.source is not None and not clip.embedded
        assert row.video is not None
        places.setdefault(line.folder / row.video, len(sources))
        sources.append(f"#clip-{len(clips)}" if clip.source is not None else "")
        clips.append(clip)
    for path in _recorded(study):
        if path in places:
            continue
        places[path] = len(sources)
        if not path.is_file():
            sources.append("")
            continue
        data = path.read_bytes()
        if len(data) <= embed_limit - spent:
            spent += len(data)
            sources.append(f"@{len(embedded)}")
            embedded.append(_data_uri("video/mp4", data))
        else:
            copied += 1
            sources.append(_beside(data, out))
    return Videos(clips, note, tuple(sources), tuple(embedded), copied, places)


def _recorded(study: Study) -> Iterator[Path]:
    for line in study.table:
        for row in line.rows:
            if row.video is not None:
                yield inside(line.folder, row.video)


def _grid(study: Study) -> tuple[list[tuple[TableRow, EpisodeRow]], str]:
    """The clips of the grid in the order of the table and of the tasks, and the rule that chose them."""
    first: dict[str, list[tuple[TableRow, EpisodeRow]]] = {}
    for line in study.table:
        if line.kind == "arm":
            recorded: dict[str, EpisodeRow] = {}
            for row in sorted(line.rows, key=lambda r: r.episode):
                if row.video is not None:
                    recorded.setdefault(row.task, row)
            first[line.arm] = [(line, recorded[task]) for task in study.file.tasks if task in recorded]
    rule = "Per arm and task, the first recorded episode, whatever its outcome."
    count = sum(map(len, first.values()))
    if count <= GRID:
        return [pair for pairs in first.values() for pair in pairs], rule
    recipe_of = {arm.name: arm.recipe or arm.name for arm in study.file.arms}
    of_recipe: dict[str, list[tuple[TableRow, EpisodeRow]]] = {}
    for arm, pairs in first.items():
        if pairs:
            of_recipe.setdefault(recipe_of[arm], pairs)
    tasks = max(1, GRID // len(of_recipe))
    kept = study.file.tasks[:tasks]
    shown = [pair for pairs in of_recipe.values() for pair in pairs if pair[1].task in kept][:GRID]
    rule += (
        f" Here {len(shown)} of {count} such clips: the first training run of each arm, the first "
        f"{len(kept)} of {len(study.file.tasks)} tasks"
    )
    return shown, f"{rule}{', the first arms' if len(of_recipe) > GRID else ''}. The episode browser below plays all."


def _clip(study: Study, place: int, table_row: TableRow, row: EpisodeRow, out: Path, room: int) -> tuple[Clip, int]:
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
    return Clip(place, table_row.label, row.task, instruction, row, source, image, embedded, fault), spent


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
    path = out / "videos" / name
    if path.is_file() and path.stat().st_size == len(data):
        return f"videos/{name}"  # of an earlier build
    try:
        write_atomic(path, data)
    except OSError as error:
        raise disk_error(out / "videos", error) from error
    return f"videos/{name}"
