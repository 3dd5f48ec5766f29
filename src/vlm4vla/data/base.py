"""What a reader hands over: whole episodes, in the house's units and names, with their action spec."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vlm4vla.types import ActionSpec, CameraSpec, Image


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
    ``source`` is the episode's index in its dataset; ``info`` is plain JSON data (seed, ...).
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
    """Assert that an episode has the shapes that its spec, cameras and state names promise (N >= 1 frames)."""
    length = episode.length
    assert length > 0, "an episode without frames"
    assert episode.actions.shape == (length, spec.size), f"actions {episode.actions.shape}, spec of {spec.size}"
    assert episode.actions.dtype == np.float32, f"actions are {episode.actions.dtype}"
    assert np.isfinite(episode.actions).all(), f"episode {episode.source}: actions that are not finite"
    if state_names:
        assert episode.states is not None and episode.states.shape == (length, len(state_names)), "states"
        assert episode.states.dtype == np.float32, f"states are {episode.states.dtype}"
    else:
        assert episode.states is None, "states without names"
    assert set(episode.images) == {c.name for c in cameras}, f"cameras {sorted(episode.images)}"
    for camera in cameras:
        frames = episode.images[camera.name]
        assert len(frames) == length, f"{len(frames)} pictures of {camera.name} for {length} actions"
