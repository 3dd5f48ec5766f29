"""Checks of the pictures of evenly spread episodes: blank, frozen, or shifted in time against the numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vlm4vla.data.checks import shift
from vlm4vla.data.checks.findings import Finding, episodes, percent
from vlm4vla.data.store import EpisodeEntry, Store
from vlm4vla.types import Image

_EPISODES, _FRAMES = 48, 240  # looked at: about 10 s for two cameras of 224 pixels
_SIDE = 32  # pictures are compared after averaging down to about this size
_DARK, _FLAT = 8.0, 2.0  # grey levels of 255: mean of a black picture; standard deviation of a blank one
_STILL = 1.0  # grey levels of 255 in the block that changes most: what re-encoding a still picture may do
_FROZEN_SHARE, _FROZEN_FRAMES = 0.5, 8  # of the frames in which the robot moves


@dataclass(frozen=True)
class Look:
    """One camera in one episode of N frames: brightness and contrast (N,); the change to the next picture, on average
    over the picture and in the block that changes most (N - 1,). All in grey levels of 255."""

    mean: npt.NDArray[np.float64]
    contrast: npt.NDArray[np.float64]
    change: npt.NDArray[np.float64]
    most: npt.NDArray[np.float64]


def spread(store: Store) -> tuple[int, ...]:
    """The numbers of the episodes that are looked at."""
    count = min(_EPISODES, len(store.episodes))
    return episodes(np.unique(np.linspace(0, len(store.episodes) - 1, count).astype(int)))


def check(store: Store, chosen: tuple[int, ...], numbers: bool) -> Iterator[Finding]:
    """``numbers``: actions and states are finite, so that pictures can be held against them."""
    parts = [_cut(store.episodes[n]) for n in chosen]
    for camera in store.cameras:
        looks = [_look(store, e, camera.name) for e in parts]
        yield from _blank(camera.name, parts, looks)
        if numbers:
            yield from _frozen(store, camera.name, parts, looks)
            yield from shift.pictures(store, camera.name, parts, [look.change for look in looks])
    if numbers:
        yield from shift.actions(store, parts)


def _cut(e: EpisodeEntry) -> EpisodeEntry:
    """The first frames of a long episode."""
    return replace(e, length=min(e.length, _FRAMES))


def _small(image: Image) -> npt.NDArray[np.float64]:
    """(h, w) grey levels, averaged over blocks."""
    k = max(1, min(image.shape[:2]) // _SIDE)
    h, w = image.shape[0] // k, image.shape[1] // k
    blocks: npt.NDArray[np.float64] = image[: h * k, : w * k].reshape(h, k, w, k, 3).mean((1, 3, 4))
    return blocks


def _look(store: Store, e: EpisodeEntry, camera: str) -> Look:
    small = np.stack([_small(store.image(i, camera)) for i in range(e.start, e.stop)])
    change = np.abs(np.diff(small, axis=0))
    return Look(small.mean((1, 2)), small.std((1, 2)), change.mean((1, 2)), change.max((1, 2)))


def _blank(camera: str, parts: list[EpisodeEntry], looks: list[Look]) -> Iterator[Finding]:
    shares = np.array([(look.contrast < _FLAT).mean() for look in looks])
    if not shares.any():
        return
    bad = [e.episode for e, share in zip(parts, shares, strict=True) if share > 0]
    dark = all((look.mean[look.contrast < _FLAT] < _DARK).all() for look in looks)
    whole = bool((shares == 1).all())
    yield Finding(
        "error" if whole else "warning",
        "camera-blank",
        f"Camera {camera} is {'black' if dark else 'of one colour'} in {percent(float(np.mean(shares)))} of the "
        f"frames looked at, in {len(bad)} of {len(parts)} episodes.",
        f"Build the store without {camera}, or leave these episodes out: there is nothing to see in them.",
        () if whole else episodes(bad),
    )


def _frozen(store: Store, camera: str, parts: list[EpisodeEntry], looks: list[Look]) -> Iterator[Finding]:
    """Pictures that stay while the robot is told (or, where states are known, seen) to move."""
    bad: list[int] = []
    longest = 0
    for e, look in zip(parts, looks, strict=True):
        moving = shift.is_moving(store, e)
        still = look.most < _STILL
        both = int((still & moving).sum())
        if not (look.contrast < _FLAT).all() and both >= _FROZEN_FRAMES and both > _FROZEN_SHARE * moving.sum():
            bad.append(e.episode)
            longest = max(longest, shift.longest(still) + 1)
    if bad:
        yield Finding(
            "error" if len(bad) > _FROZEN_SHARE * len(parts) else "warning",
            "camera-frozen",
            f"Camera {camera} shows the same picture while the robot moves in {len(bad)} of {len(parts)} episodes "
            f"looked at (up to {longest} frames in a row).",
            "Look at such an episode ('vlm4vla data show'); leave it out, or record it anew.",
            episodes(bad),
        )
