"""What the readers of LeRobot's layouts share: chosen columns, cameras and episodes, and grippers."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vlm4vla.data.action_spec import load_spec
from vlm4vla.data.base import Frames
from vlm4vla.data.formats import lerobot_layout as layout
from vlm4vla.data.options import renamed
from vlm4vla.data.readers._lerobot_files import RESTORE, TablePictures, numbers
from vlm4vla.types import ActionSpec, CameraSpec, refuse

_NUMBERS = ("float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
NO_STATE = "none"


class Columns:
    """The chosen columns of one data set, and what its action numbers mean.

    ``given`` or ``file`` (see ``data.action_spec``) says it where the data set does not. ``cameras``, ``action`` and
    ``state`` are lists with commas: cameras by their short name or key (None: all), ``STORED=NAME`` to rename one;
    columns by their key; several are put side by side. ``state`` "none" means no state, and so does
    "observation.state" where there is none.
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
        self.sizes = {key: (c.height, c.width) for key, c in zip(self.keys.values(), self.cameras, strict=True)}
        self._action = self._vectors("action", action)
        size = sum(self._size(key) for key in self._action)
        if size != self.action_spec.size:
            raise refuse(
                f"The actions of {root} have {size} numbers, the action spec {self.action_spec.size}",
                possible=f"{size} dimensions: {', '.join(self._names(self._action))}",
                todo="Give an action spec with one dimension per number, or other columns with the option action.",
            )
        without = state == NO_STATE or (state == layout.STATE and state not in self._features)
        self._check_meaning(float(info["fps"]))
        self._state = () if without else self._vectors("state", state)
        self.state_names = self._names(self._state)

    @property
    def needed(self) -> list[str]:
        """The columns of the tables that are read; no other one ever is (annotations may hold pickles)."""
        pictures = [key for key in self.keys.values() if self.in_table(key)]
        own = ["timestamp", "frame_index", "episode_index", "task_index"]
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

    def pictures(self, table: pa.Table, camera: str, episode: int) -> Frames:
        """The pictures of a camera (its key) that stand in the table, the rows of ``episode``."""
        cells: list[Any] = [c.get("bytes") if isinstance(c, dict) else None for c in table.column(camera).to_pylist()]
        where = f"camera {camera} of episode {episode} of {self._root}"
        if not all(isinstance(cell, bytes) for cell in cells):
            raise refuse(
                f"The table of {where} names picture files instead of holding the pictures, or holds none",
                possible="pictures inside the tables, or mp4 files",
                todo="Save the data set again with LeRobot, pictures included.",
            )
        return TablePictures(cells, where)

    def _check_meaning(self, fps: float) -> None:
        """Refuse a spec of another control rate than the data set's, or of the same numbers in another order."""
        if not math.isclose(fps, self.action_spec.control_hz, rel_tol=1e-6):
            raise refuse(
                f"{self._root} has {fps:g} fps, the action spec a control_hz of {self.action_spec.control_hz:g}",
                possible="the same rate in both",
                todo="Correct control_hz in the action spec, or resample the data set.",
            )
        wanted = [d.name for d in self.action_spec.dimensions]
        bare = [name for key in self._action for name in _named(self._features[key], self._size(key)) or ()]
        for found in (bare, list(self._names(self._action))):
            if found != wanted and sorted(found) == sorted(wanted):
                raise refuse(
                    f"{self._root} has the action numbers {', '.join(found)}, the action spec says {', '.join(wanted)}",
                    possible="the same order in both",
                    todo="Put the dimensions of the action spec into the order of the data set.",
                )

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
            pairs = renamed(chosen)
            stored = [short[w] for w in _words("cameras", ",".join(w for w, _ in pairs), short, list(keys))]
            names = [own if given is None else given for own, (_, given) in zip(stored, pairs, strict=True)]
            if len(set(names)) < len(names) or "" in names:
                raise refuse(
                    f"cameras {chosen!r} gives two cameras one name, or one none",
                    possible="STORED=NAME, each name once",
                    todo="Choose other names.",
                )
            keys = {name: keys[own] for name, own in zip(names, stored, strict=True)}
        return keys, tuple(self._camera(name, key) for name, key in keys.items())

    def _camera(self, name: str, key: str) -> CameraSpec:
        feature = self._features[key]
        shape = feature["shape"]
        if len(shape) != 3:
            raise refuse(f"Camera {key} of {self._root} has the shape {shape}", possible="three sizes", todo=RESTORE)
        names = _named(feature, 3)
        if names is None and feature.get("names"):
            raise refuse(
                f"Camera {key} of {self._root} has the names {feature['names']}",
                possible="three names in the order of the shape: height, width, channels",
                todo="Write such a list into info.json.",
            )
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
        parts = [numbers(table, key, self._size(key), self._root) for key in keys]
        return np.concatenate(parts, axis=1).astype(np.float32)


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
    """Names of a vector's numbers; their places where it has no names."""
    size = feature["shape"][0]
    return _named(feature, size) or tuple(str(i) for i in range(size))


def _named(feature: Mapping[str, Any], size: int) -> tuple[str, ...] | None:
    """The ``size`` names that info.json gives: a list, lists in a list or in a mapping, or a mapping to places."""
    names = feature.get("names")
    if isinstance(names, Mapping):
        places = list(names.values())
        if all(isinstance(p, int) for p in places):
            names = sorted(names, key=names.__getitem__) if sorted(places) == list(range(size)) else None
        else:
            names = places
    if not isinstance(names, list):
        return None
    flat = [str(n) for part in names for n in (part if isinstance(part, list) else [part])]
    return tuple(flat) if len(flat) == size else None
