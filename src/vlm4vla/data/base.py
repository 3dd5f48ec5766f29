"""What a reader hands over: whole episodes, in the house's units and names, with their action spec."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vlm4vla import registry
from vlm4vla.data import options as option_values
from vlm4vla.types import ActionSpec, CameraSpec, Image, refuse


class Frames(Protocol):
    """The pictures of one camera in one episode: an (N, H, W, 3) uint8 array, or a lazy sequence of (H, W, 3)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Image: ...
    def __iter__(self) -> Iterator[Image]: ...


@dataclass(frozen=True, eq=False)
class RawEpisode:
    """One episode of N frames as it was recorded.

    ``actions`` (N, A) float32 in the units of the reader's action spec; ``states`` (N, S) float32 or None;
    ``task`` is the benchmark's name of the task (the instruction, where a dataset knows no other);
    ``source`` is the episode's index in its dataset; ``info`` is plain JSON data (seed, ...). What was left
    out is counted there: ``dropped_X`` frames of this episode, ``skipped_X`` episodes of the whole data set.
    ``evaluated_as`` is the sentence that evaluations of the task use, where the reader knows that it is another one.
    """

    instruction: str
    images: Mapping[str, Frames]
    actions: npt.NDArray[np.float32]
    states: npt.NDArray[np.float32] | None
    task: str
    source: int
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return len(self.actions)


class Reader(Protocol):
    """One dataset on disk. ``data/readers/<format>.py`` exports its class as ``Reader``; instances can be pickled."""

    action_spec: ActionSpec
    cameras: tuple[CameraSpec, ...]
    state_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def episode(self, index: int) -> RawEpisode: ...

    def digest(self) -> str:
        """SHA-256 (hex) of the content; equal digests mean equal episodes."""
        ...


def check_episode(
    episode: RawEpisode, spec: ActionSpec, cameras: tuple[CameraSpec, ...], state_names: tuple[str, ...]
) -> None:
    """Refuse an episode that is not what its spec, cameras and state names promise (N >= 1 frames, finite float32)."""
    n = episode.length
    found: list[str] = []
    if n == 0:
        found.append("it has no frames")
    if episode.actions.shape != (n, spec.size) or episode.actions.dtype != np.float32:
        found.append(f"actions {episode.actions.shape} {episode.actions.dtype} instead of ({n}, {spec.size}) float32")
    elif not np.isfinite(episode.actions).all():
        bad = int(np.argmin(np.isfinite(episode.actions).all(axis=1)))
        found.append(f"the action of frame {bad} is not finite")
    states = None if episode.states is None else (episode.states.shape, str(episode.states.dtype))
    if states != (((n, len(state_names)), "float32") if state_names else None):
        found.append(f"states {states} for {len(state_names)} state names")
    if set(episode.images) != {c.name for c in cameras}:
        found.append(f"cameras {sorted(episode.images)} instead of {sorted(c.name for c in cameras)}")
    found += [f"{len(f)} pictures of {name} for {n} actions" for name, f in episode.images.items() if len(f) != n]
    if found:
        raise refuse(
            f"Episode {episode.source} of the data set cannot be used: {'; '.join(found)}",
            possible="one picture per camera, one state and one finite action for every frame",
            todo="Mend or remove the episode in the data set; nothing is skipped silently.",
        )


@dataclass(frozen=True)
class Opened:
    """A reader, and what is recorded of it in a store's provenance: the format's name and the options given."""

    reader: Reader
    origin: Mapping[str, Any]


def open_reader(reader: str | type[Any], root: Path, options: Mapping[str, object]) -> Reader:
    """The reader of that name (``data/readers/<name>.py``), or of that class, on ``root``.

    ``options`` are the parameters of its ``__init__`` after ``root``; texts are read by the types declared there, see
    :func:`vlm4vla.data.options.values`, which says what is refused.
    """
    return open_with_origin(reader, root, options).reader


def open_with_origin(reader: str | type[Any], root: Path, options: Mapping[str, object]) -> Opened:
    """As :func:`open_reader`, with the record of it."""
    kind: type[Any] = registry.find("data.readers", reader).Reader if isinstance(reader, str) else reader
    name = reader if isinstance(reader, str) else kind.__module__.rpartition(".")[2]
    values = option_values.values(kind, name, options)
    told = {key: option_values.plain(values[key]) for key in sorted(values)}
    return Opened(kind(Path(root), **values), {"format": name, "options": told})
