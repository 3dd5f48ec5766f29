"""Actions in units -> targets in [-1, 1] -> actions in units: pairs that are each other's inverse. numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vlm4vla.data.statistics import Statistics
from vlm4vla.types import ActionSpec, refuse

Actions = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
_FLAT = 1e-6  # a dimension whose half range is below this part of its size does not move


class Settings(Protocol):
    """What of ``schemas.NormalizerConfig`` is needed here: simulators' environments cannot import that."""

    @property
    def kind(self) -> str: ...
    @property
    def clip(self) -> float | None: ...


@dataclass(frozen=True)
class Normalizer:
    """Per dimension: subtract ``center``, divide by ``scale``, cut at +-``clip``, divide by ``clip``.

    The arm's dimensions are treated so; a gripper dimension (+1 open, -1 closed) passes through both ways, the head
    makes its own labels. ``scale`` 0 marks a dimension that does not move: it becomes 0, and its constant on the way
    back. ``clip`` None cuts nothing.
    """

    kind: str
    center: tuple[float, ...]
    scale: tuple[float, ...]
    clip: float | None
    gripper: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def fit(cls, spec: ActionSpec, statistics: Statistics | None, config: Settings) -> "Normalizer":
        """``limits`` uses the spec's own bounds; ``quantile`` q01 and q99, ``min_max`` the extremes (both map them to
        -1 and 1); ``mean_std`` mean and standard deviation.

        ``config.clip`` is the paper's cut: 0.65 there. The bounded kinds cut at 1 without one, since a tanh head
        cannot reach further (openvla's BOUNDS_Q99 does the same); ``mean_std`` then cuts nothing.
        """
        if config.clip is not None and not config.clip > 0:
            raise refuse(
                f"Normaliser clip {config.clip} was given", possible="a number above 0, or null", todo="Change it."
            )
        low = np.array([d.low for d in spec.dimensions])
        high = np.array([d.high for d in spec.dimensions])
        if config.kind == "limits":
            if not np.isfinite([low[list(spec.arm)], high[list(spec.arm)]]).all():
                raise refuse(
                    "Normaliser 'limits' needs finite limits in the action spec",
                    possible="quantile, min_max, mean_std",
                    todo="Choose one of these, which are fitted on the data.",
                )
            first, last = low, high
        else:
            assert statistics is not None, f"{config.kind} is fitted on data"
            if config.kind == "mean_std":
                mean, std = np.array(statistics.mean), np.array(statistics.std)
                first, last = mean - std, mean + std
            else:
                names = ("q01", "q99") if config.kind == "quantile" else ("min", "max")
                first, last = (np.array(getattr(statistics, name)) for name in names)
                _refuse_collapsed(spec, statistics, first, last)
        center, scale = (first + last) / 2, (last - first) / 2
        scale = np.where(scale <= _FLAT * np.maximum(np.abs(center), _FLAT), 0.0, scale)
        gripper = list(spec.gripper)
        center[gripper], scale[gripper] = 0.0, 1.0
        clip = config.clip if config.clip is not None or config.kind == "mean_std" else 1.0
        return cls(
            kind=config.kind,
            center=_floats(center),
            scale=_floats(scale),
            clip=clip,
            gripper=spec.gripper,
            low=_floats(low),
            high=_floats(high),
        )

    @property
    def size(self) -> int:
        return len(self.center)

    def normalize(self, actions: npt.ArrayLike) -> Actions:
        """(..., A) actions in units -> targets of the same shape, float32."""
        given = np.asarray(actions, np.float64)
        assert given.shape[-1:] == (self.size,), f"actions of shape {given.shape} for {self.size} dimensions"
        scale = np.array(self.scale)
        out = np.where(scale > 0, (given - np.array(self.center)) / np.where(scale > 0, scale, 1.0), 0.0)
        if self.clip is not None:
            out = np.clip(out, -self.clip, self.clip) / self.clip
        out[..., list(self.gripper)] = given[..., list(self.gripper)]
        targets: Actions = out.astype(np.float32)
        return targets

    def inverse(self, targets: npt.ArrayLike) -> Actions:
        """(..., A) targets -> actions in units, cut at the limits of the action spec, float32."""
        given = np.asarray(targets, np.float64)
        assert given.shape[-1:] == (self.size,), f"targets of shape {given.shape} for {self.size} dimensions"
        out = given * (self.clip if self.clip is not None else 1.0) * np.array(self.scale) + np.array(self.center)
        out[..., list(self.gripper)] = given[..., list(self.gripper)]
        actions: Actions = np.clip(out, np.array(self.low), np.array(self.high)).astype(np.float32)
        return actions

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; infinite limits are written as null."""
        limits = {name: [x if np.isfinite(x) else None for x in getattr(self, name)] for name in ("low", "high")}
        return {
            "kind": self.kind,
            "center": list(self.center),
            "scale": list(self.scale),
            "clip": self.clip,
            "gripper": list(self.gripper),
            **limits,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Normalizer":
        return cls(
            kind=data["kind"],
            center=tuple(data["center"]),
            scale=tuple(data["scale"]),
            clip=data["clip"],
            gripper=tuple(data["gripper"]),
            low=tuple(-np.inf if x is None else x for x in data["low"]),
            high=tuple(np.inf if x is None else x for x in data["high"]),
        )


def _refuse_collapsed(spec: ActionSpec, found: Statistics, first: Floats, last: Floats) -> None:
    """A dimension that moves so rarely that its quantiles are equal would silently be trained as a constant."""
    for i in spec.arm:
        if first[i] == last[i] and found.min[i] != found.max[i]:
            name = spec.dimensions[i].name
            raise refuse(
                f"Action dimension {name!r} moves ({found.min[i]:g} to {found.max[i]:g}), but its quantiles are equal",
                possible="normalizer kinds min_max, mean_std, limits",
                todo="Choose one of these: scaled by its quantiles, the dimension would become a constant.",
            )


def _floats(row: Floats) -> tuple[float, ...]:
    return tuple(float(x) for x in row)
