"""What the readers of LeRobot's layouts share: chosen columns, cameras and episodes, grippers, texts and paths."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vlm4vla.data import columns
from vlm4vla.data.action_spec import load_spec
from vlm4vla.data.base import Frames
from vlm4vla.data.formats import lerobot_layout as layout
from vlm4vla.data.pictures import EncodedFrames
from vlm4vla.types import ActionSpec, CameraSpec, refuse

_NUMBERS = ("float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
NO_STATE = "none"
_RESTORE = "Restore the data set from where it came from."
# Only plain numbers and names may stand in a path template: a width such as :0999999999d would fill the memory.
_FIELD = re.compile(r"\{(\w+)(?::0?[1-9]?d)?\}")


class Columns:
    """The chosen columns of one data set, and what its action numbers mean.

    ``given`` or ``file`` (see ``data.action_spec``) says it where the data set does not. ``cameras``, ``action`` and
    ``state`` are lists with commas: cameras by their short name or key (None: all), columns by their key; several are
    put side by side. ``state`` "none" means no state, and so does "observation.state" where there is none.
    """

    def __init__(
        self,
        root: Path,
        info: Mapping[str, Any],
        *,
        given: ActionSpec | None,
        file: Path | None,
        cameras: str | None,
        action: str,
        state: str,
    ) -> None:
        self._root = root
        self._features: Mapping[str, Any] = info["features"]
        self.action_spec, self.gripper = _spec(root, info, given, file)
        self.keys, self.cameras = self._find_cameras(cameras)
        self._action = self._vectors("action", action)
        size = sum(self._size(key) for key in self._action)
        if size != self.action_spec.size:
            raise refuse(
                f"The actions of {root} have {size} numbers, the action spec {self.action_spec.size}",
                possible=f"{size} dimensions: {', '.join(self._names(self._action))}",
                todo="Give an action spec with one dimension per number, or other columns with the option action.",
            )
        without = state == NO_STATE or (state == layout.STATE and state not in self._features)
        self._state = () if without else self._vectors("state", state)
        self.state_names = self._names(self._state)

    @property
    def needed(self) -> list[str]:
        """The columns of the tables that are read; no other one ever is (annotations may hold pickles)."""
        pictures = [key for key in self.keys.values() if self.in_table(key)]
        own = ["timestamp", "episode_index", "task_index"]
        return list(dict.fromkeys([*self._action, *self._state, *pictures, *own]))

    def in_table(self, camera: str) -> bool:
        """Whether the pictures of a camera (its key) stand in the tables; else in a video."""
        return bool(self._features[camera]["dtype"] == "image")

    def actions(self, table: pa.Table) -> npt.NDArray[np.float32]:
        """(N, A) in the house's sense: gripper numbers converted here, by the numbers that the spec file states."""
        actions = self._numbers(table, self._action)
        for g in self.action_spec.gripper:
            if self.gripper is not None:
                opened, closed = self.gripper
                actions[:, g] = 2 * (actions[:, g] - closed) / (opened - closed) - 1
            if len(actions) and np.abs(actions[:, g]).max() > 1 + 1e-5:
                raise refuse(
                    f"A gripper action of {self._root} is {actions[np.abs(actions[:, g]).argmax(), g]}",
                    possible="-1 (closed) to +1 (open)",
                    todo="State 'gripper: {open: ..., closed: ...}', its own numbers, in the action spec file.",
                )
        return actions

    def states(self, table: pa.Table) -> npt.NDArray[np.float32] | None:
        return self._numbers(table, self._state) if self._state else None

    def pictures(self, table: pa.Table, camera: str) -> Frames:
        """The pictures of a camera that stand in the table."""
        cells = table.column(camera).combine_chunks().to_pylist()
        if any(cell is None or cell["bytes"] is None for cell in cells):
            raise refuse(
                f"The tables of {self._root} name picture files instead of holding the pictures of {camera}",
                possible="pictures inside the tables, or mp4 files",
                todo="Save the data set again with LeRobot, pictures included.",
            )
        return EncodedFrames([cell["bytes"] for cell in cells])

    def _find_cameras(self, chosen: str | None) -> tuple[dict[str, str], tuple[CameraSpec, ...]]:
        """Camera name -> feature key, and the specs."""
        keys: dict[str, str] = {}
        for key, feature in self._features.items():
            if feature["dtype"] in ("image", "video"):
                name = key.removeprefix(layout.IMAGES).removeprefix("observation.").removeprefix("video.")
                if name in keys:
                    raise refuse(f"Two cameras of the data set are called {name!r}", possible="one", todo="Rename one.")
                keys[name] = key
        if chosen is not None:
            short = {key: name for name, key in keys.items()} | {name: name for name in keys}
            keys = {short[w]: keys[short[w]] for w in _words("cameras", chosen, short, list(keys))}
        return keys, tuple(self._camera(name, key) for name, key in keys.items())

    def _camera(self, name: str, key: str) -> CameraSpec:
        feature = self._features[key]
        shape, names = feature["shape"], feature.get("names")
        if len(shape) != 3:
            raise refuse(f"Camera {key} of {self._root} has the shape {shape}", possible="three sizes", todo=_RESTORE)
        channels_first = names[0].startswith("c") if names else shape[0] == 3 != shape[2]
        height, width = shape[1:] if channels_first else shape[:2]
        return CameraSpec(name, height, width)

    def _vectors(self, option: str, chosen: str) -> tuple[str, ...]:
        """Keys of columns of numbers."""
        possible = [k for k, f in self._features.items() if f["dtype"] in _NUMBERS and len(f["shape"]) == 1]
        return _words(option, chosen, possible, possible)

    def _size(self, key: str) -> int:
        return int(self._features[key]["shape"][0])

    def _names(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Names of a vector's numbers; with the key in front where several vectors stand side by side."""
        if len(keys) == 1:
            return _names(self._features[keys[0]])
        return tuple(f"{key}.{name}" for key in keys for name in _names(self._features[key]))

    def _numbers(self, table: pa.Table, keys: Sequence[str]) -> npt.NDArray[np.float32]:
        """(N, D) float32, a copy: the columns side by side."""
        parts: list[npt.NDArray[Any]] = []
        for key in keys:
            column = table.column(key)
            kind = column.type.value_type if pa.types.is_nested(column.type) else column.type
            flat = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
            values = columns.to_numpy(column) if flat and not column.null_count and len(column) else None
            if values is None or values.shape[1] != self._size(key):
                raise refuse(
                    f"Column {key} of {self._root} is not what info.json says it is: {column.type}",
                    possible=f"{self._size(key)} numbers in every row",
                    todo=_RESTORE,
                )
            parts.append(values)
        return np.concatenate(parts, axis=1).astype(np.float32)


def read_info(root: Path, versions: Sequence[str], todo: str) -> dict[str, Any]:
    """info.json of one of the given versions."""
    file = root / layout.INFO
    wanted = " or ".join(versions)
    if not file.is_file():
        raise refuse(f"{root} has no {layout.INFO}", possible=f"a finished LeRobot {wanted} data set", todo=todo)
    try:
        info: dict[str, Any] = json.loads(file.read_text())
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
            todo=_RESTORE,
        )
    return info


def choose(option: str | None, listed: Iterable[int]) -> list[int]:
    """Sorted episode numbers of an option such as "1,10" or "0:10,12" (the end of a range is not part of it)."""
    known = sorted(listed)
    if option is None:
        return known
    chosen: set[int] = set()
    for word in option.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?::\s*(\d{1,9})\s*)?", word)
        numbers = range(0)
        if match is not None:
            first = int(match[1])
            numbers = range(first, int(match[2]) if match[2] is not None else first + 1)
        if not numbers or numbers[-1] > (known or [-1])[-1] or not set(numbers) <= set(known):
            raise refuse(
                f"The option episodes={option} names {word.strip()!r}",
                possible=f"numbers and ranges of the {len(known)} episodes that the data set lists"
                + (f", {known[0]} to {known[-1]}" if known else ""),
                todo='Write for example episodes="1,10" or episodes="0:10"; the end of a range is not part of it.',
            )
        chosen.update(numbers)
    return sorted(chosen)


def fill(root: Path, template: str, **values: int | str) -> Path:
    """The path that a template of info.json gives; refuses one that is malformed or leaves ``root``."""
    names = _FIELD.findall(template)
    if not set(names) <= set(values) or set("{}") & set(_FIELD.sub("", template)):
        raise refuse(
            f"{root} has the path template {template!r}",
            possible=f"fields {', '.join(values)}, as {{name}} or {{name:06d}}",
            todo=_RESTORE,
        )
    path = (root / template.format(**values)).resolve()
    if not path.is_relative_to(root.resolve()):
        raise refuse(f"{root} has no file {path}: it lies outside", possible="files of the data set", todo=_RESTORE)
    return path


def instruction(table: pa.Table, tasks: Mapping[int, str], episode: int, root: Path) -> str:
    """The one text of an episode's rows."""
    numbers = {int(t) for t in table.column("task_index").to_pylist()}
    if not numbers <= set(tasks):
        raise refuse(
            f"Episode {episode} of {root} has the tasks {sorted(numbers)}", possible=sorted(tasks), todo=_RESTORE
        )
    texts = {tasks[t] for t in numbers}
    if len(texts) > 1:
        raise refuse(
            f"Episode {episode} of {root} changes its instruction on the way: {', '.join(sorted(texts))}",
            possible="one instruction per episode",
            todo="Split the episode where the instruction changes.",
        )
    return texts.pop()


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(n, int) and n > 0 for n in value)


def _spec(
    root: Path, info: Mapping[str, Any], given: ActionSpec | None, file: Path | None
) -> tuple[ActionSpec, tuple[float, float] | None]:
    section = info.get(layout.SECTION)
    if section is not None and section["version"] != layout.SECTION_VERSION:
        raise refuse(
            f"{root} was written with version {section['version']} of our section of info.json",
            possible=f"version {layout.SECTION_VERSION}",
            todo="Read it with the vlm4vla that wrote it, or record it anew.",
        )
    if given is not None:
        return given, None
    if file is not None:
        return load_spec(Path(file))
    if section is not None:
        return ActionSpec.from_dict(section["action_spec"]), None
    raise refuse(
        f"{root} does not say what its action numbers mean",
        possible="a data set of our writer, or an action spec beside it",
        todo="Give spec=FILE: a YAML file with units, frames, limits, rotation and control rate (see examples/specs).",
    )


def _words(option: str, text: str, known: Iterable[str], possible: Sequence[str]) -> tuple[str, ...]:
    """The words of a list with commas, all of them known, none twice."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in known or words.count(word) > 1:
            raise refuse(
                f"The option {option}={text} names {word!r}" + (" twice" if words.count(word) > 1 else ""),
                given=word,
                possible=possible,
                todo=f"Give {option}= one of these, or several with commas.",
            )
    return tuple(words)


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a vector's numbers: a list, a list in a list, a mapping of lists, or none at all."""
    names = feature.get("names")
    if isinstance(names, Mapping):
        names = [n for part in names.values() for n in part]
    if names and isinstance(names[0], list):
        names = [n for part in names for n in part]
    size = feature["shape"][0]
    return tuple(str(n) for n in names) if names and len(names) == size else tuple(str(i) for i in range(size))
