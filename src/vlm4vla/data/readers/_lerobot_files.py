"""The files of LeRobot's layouts, read strictly: info.json, JSON lines, paths, tables and their rows, instructions."""

import json
import os.path
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vlm4vla.data import columns
from vlm4vla.data.formats import lerobot_layout as layout
from vlm4vla.data.pictures import EncodedFrames
from vlm4vla.types import Image, UserError, refuse

RESTORE = "Restore the data set from where it came from."
# Only plain numbers and names may stand in a path template: a width such as :0999999999d would fill the memory.
_FIELD = re.compile(r"\{(\w+)(?::0?[1-9]?d)?\}")


class TablePictures(EncodedFrames):
    """The pictures of one camera of one episode that stand in a table; an unreadable one is named by its frame."""

    def __init__(self, encoded: Sequence[bytes], where: str) -> None:
        super().__init__(encoded)
        self._where = where

    def __getitem__(self, index: int, /) -> Image:
        with self._named(index):
            return super().__getitem__(index)

    def __iter__(self) -> Iterator[Image]:
        return (self[i] for i in range(len(self)))

    def are_png(self, height: int, width: int) -> bool:
        for i, data in enumerate(self.encoded):
            with self._named(i):
                if not EncodedFrames([data]).are_png(height, width):
                    return False
        return True

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        try:
            yield
        except (UserError, OSError, SyntaxError) as error:
            raise refuse(
                f"Frame {index} of {self._where} is no picture that can be read: {_first_line(error)}", todo=RESTORE
            ) from error


def read_info(root: Path, versions: Sequence[str], todo: str) -> dict[str, Any]:
    """info.json of one of the given versions."""
    file = root / layout.INFO
    wanted = " or ".join(versions)
    if not file.is_file():
        raise refuse(f"{root} has no {layout.INFO}", possible=f"a finished LeRobot {wanted} data set", todo=todo)
    try:
        info: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise refuse(
            f"{file} is not valid JSON: {error}", possible=f"a LeRobot {wanted} info.json", todo=todo
        ) from None
    found = info.get("codebase_version", "no version") if isinstance(info, dict) else "no version"
    if found not in versions:
        raise refuse(f"{root} is a LeRobot data set of {found}", possible=wanted, todo=todo)
    features = info.get("features")
    whole = isinstance(features, dict) and all(
        isinstance(f, dict) and isinstance(f.get("dtype"), str) and _is_shape(f.get("shape")) for f in features.values()
    )
    fps = info.get("fps")
    missing = [] if isinstance(info.get("data_path"), str) else ["data_path"]
    missing += [] if isinstance(fps, int | float) and fps > 0 else ["fps"]
    if not whole or missing:
        raise refuse(
            f"{file} is not whole: {', '.join(missing) or 'features'}",
            possible="features with dtype and shape, data_path and fps",
            todo=RESTORE,
        )
    return info


def read_lines(file: Path, wanted: Mapping[str, type], todo: str) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file in UTF-8; each has the wanted keys."""
    if not file.is_file():
        raise refuse(f"There is no file {file}", possible="a LeRobot v2.1 data set", todo=todo)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):  # of bytes: at line ends only
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
            whole = isinstance(row, dict) and all(type(row.get(key)) is kind for key, kind in wanted.items())
        except (json.JSONDecodeError, UnicodeDecodeError):
            whole = False
        if not whole:
            keys = ", ".join(f"{key} ({kind.__name__})" for key, kind in wanted.items())
            raise refuse(f"Line {number} of {file} cannot be used", possible=f"JSON in UTF-8 with {keys}", todo=RESTORE)
        rows.append(row)
    return rows


def fill(root: Path, info: Mapping[str, Any], template: str, **values: int | str) -> Path:
    """The path that a template of info.json gives; refuses one that is malformed or leaves ``root``.

    Judged by its letters: links are followed, as a Hugging Face cache holds nothing but links to files elsewhere.
    """
    pattern = info.get(template)
    if not isinstance(pattern, str):
        raise refuse(f"info.json of {root} has no usable {template}", possible="a path with fields", todo=RESTORE)
    names = _FIELD.findall(pattern)
    if not set(names) <= set(values) or set("{}") & set(_FIELD.sub("", pattern)):
        raise refuse(
            f"{root} has the path template {pattern!r}",
            possible=f"fields {', '.join(values)}, as {{name}} or {{name:06d}}",
            todo=RESTORE,
        )
    path = PurePath(pattern.format(**values))
    if path.is_absolute() or ".." in path.parts:
        raise refuse(f"{root} has no file {path}: it lies outside", possible="files of the data set", todo=RESTORE)
    return root / os.path.normpath(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong with a table inside the block becomes a sentence that names its file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise refuse(f"{path} cannot be read: {_first_line(error)}", possible="a whole table", todo=RESTORE) from error


def numbers(table: pa.Table, key: str, size: int, where: Path) -> npt.NDArray[Any]:
    """(N, size): a column that must hold ``size`` plain numbers in every row."""
    column = table.column(key)
    lists = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    kind = column.type.value_type if lists else column.type
    plain = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    sound = plain and not column.null_count and len(column)
    if sound and lists:
        sound = pc.unique(pc.list_value_length(column)).to_pylist() == [size]
    if not sound or (not lists and size != 1):
        raise refuse(
            f"Column {key} of {where} is not what info.json says it is: {column.type}",
            possible=f"{size} numbers in every row",
            todo=RESTORE,
        )
    return columns.to_numpy(column)


def check_columns(found: Sequence[str], needed: Sequence[str], path: Path) -> None:
    absent = [name for name in needed if name not in found]
    if absent:
        raise refuse(f"{path} has no column {', '.join(absent)}", possible=found, todo=RESTORE)


def check_rows(table: pa.Table, episode: int, length: int, fps: float, path: Path) -> None:
    """Refuse a table that is not the ``length`` rows of ``episode``: in order, without gaps, at ``fps``.

    LeRobot's own check asks the same of timestamps: steps of 1/fps, within a tolerance.
    """
    found = {int(n) for n in numbers(table, "episode_index", 1, path)[:, 0]} if len(table) else set()
    if len(table) != length or found != {episode}:
        raise refuse(
            f"Episode {episode} is not where meta/episodes says: "
            f"{path} has {len(table)} rows of the episodes {sorted(found)[:3]}",
            possible=f"{length} rows of episode {episode}",
            todo=RESTORE,
        )
    frames = numbers(table, "frame_index", 1, path)[:, 0]
    wrong = np.flatnonzero(frames != np.arange(length))
    if len(wrong):
        raise refuse(
            f"Row {wrong[0]} of episode {episode} has the frame_index {frames[wrong[0]]} in {path}",
            possible=f"0 to {length - 1} in order, without gaps",
            todo=RESTORE,
        )
    steps = np.diff(times(table, path))
    wrong = np.flatnonzero(~(np.abs(steps - 1 / fps) <= 0.5 / fps))  # also finds NaN
    if len(wrong):
        raise refuse(
            f"Row {wrong[0] + 1} of episode {episode} has a timestamp {steps[wrong[0]]:.4f} s after the one before it "
            f"in {path}",
            possible=f"steps of {1 / fps:.4f} s (info.json: {fps:g} fps), within half of that",
            todo="Restore the data set from where it came from, or record it again at an even rate.",
        )


def times(table: pa.Table, path: Path) -> npt.NDArray[np.float64]:
    """(N,): the timestamps in seconds."""
    return numbers(table, "timestamp", 1, path)[:, 0].astype(np.float64)


def instruction(table: pa.Table, tasks: Mapping[int, str], episode: int, root: Path) -> str:
    """The one text of an episode's rows."""
    used = {int(t) for t in numbers(table, "task_index", 1, root)[:, 0]}
    if not used <= set(tasks):
        raise refuse(f"Episode {episode} of {root} has the tasks {sorted(used)}", possible=sorted(tasks), todo=RESTORE)
    texts = {tasks[t] for t in used}
    if len(texts) > 1:
        raise refuse(
            f"Episode {episode} of {root} changes its instruction on the way: {', '.join(sorted(texts))}",
            possible="one instruction per episode",
            todo="Split the episode where the instruction changes.",
        )
    text = texts.pop()
    if not text.strip():
        raise refuse(
            f"Episode {episode} of {root} has a blank instruction (task {', '.join(map(str, sorted(used)))})",
            possible="a text that says what to do",
            todo="Write it into the data set's tasks, or leave the episode out with the option episodes.",
        )
    return text


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(n, int) and n > 0 for n in value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
