"""Where a thing can be taken from above: between the fingers, by its rim, or by its handle."""

import numpy as np

from vlm4vla.bench.libero import shapes
from vlm4vla.bench.libero.hand import Point, wrapped
from vlm4vla.bench.libero.travel import REACH

Way = tuple[float, Point]
"""(direction in which the fingers close, rad from the world's x; point (3,) between the fingertips)."""

_WIDEST = 0.074  # metres between the open fingers, with some room
_FINGER = 0.032  # how deep a thing may stand between the fingers
_PAD = 0.012  # metres of a thing beyond the middle of the fingers, at least
_ASIDE = 0.03  # metres off the middle of a thing, at most
_ASKEW, _ASKEW_PER_M = 30.0, 100.0  # a way that is not straight is for where 60 points and more stand in the others
_DIRECTIONS = 24


def best(whole: shapes.Extent, obstacles: Point, base: Point, prefer: float | None) -> Way:
    """Of all ways the freest that turns and stretches the arm least; closing along ``prefer``, where that is given."""

    def cost(way: Way) -> float:
        angle, point = way
        stretched = max(0.0, float(np.linalg.norm(point[:2] - base)) - REACH)
        turned = abs(wrapped(angle) - np.pi / 2) if prefer is None else 5 * abs(np.sin(angle - prefer))
        return _blocked(angle, point, obstacles) + 0.3 * turned + 12 * stretched

    ways = between(whole) or (handle(whole) if closed_above(whole) else rim(whole))
    costs = [(cost(way), way) for way in ways]
    costs += [(cost(way) + _ASKEW + _ASKEW_PER_M * off, way) for way, off in askew(whole)]
    return min(costs, key=lambda pair: pair[0])[1]


def between(whole: shapes.Extent) -> list[Way]:
    """The ways to take it between the fingers; [] where it is too wide."""
    z, near, angles, widths = _slice(whole)
    ways = []
    for angle in angles[widths < min(_WIDEST, widths.min() + 0.002)]:
        along, beside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        middle = near.width(angle)[1] * along + near.width(angle + np.pi / 2)[1] * beside
        ways.append((float(angle), np.append(middle, z)))
    return ways


def askew(whole: shapes.Extent) -> list[tuple[Way, float]]:
    """More ways to take it between the fingers, each with how far it is from the straight one (m, wider and aside).

    Turned from the narrowest side, and towards the ends of a long thing: what stands close to it would be under the
    hand, which is broad in the direction of closing. A round thing has no ends.
    """
    z, near, angles, widths = _slice(whole)
    narrow = float(angles[widths.argmin()])
    across, along = np.array([np.cos(narrow), np.sin(narrow)]), np.array([-np.sin(narrow), np.cos(narrow)])
    length, centre = near.width(narrow + np.pi / 2)
    middle = near.width(narrow)[1] * across + centre * along
    end = max(0.0, min(_ASIDE, length / 2 - _PAD, length - float(widths.min())))
    ways = []
    for angle, width in zip(angles, widths, strict=True):
        for aside in np.linspace(-end, end, 5) if width < _WIDEST else ():
            off = float(width - widths.min() + abs(aside))
            ways.append(((float(angle), np.append(middle + aside * along, z)), off))
    return ways


def _slice(whole: shapes.Extent) -> tuple[float, shapes.Extent, Point, Point]:
    """(height to take it at, what of it is near there, directions (24,), its widths in them (24,))."""
    z = max(whole.bottom + 0.012, whole.top - _FINGER)
    slice_ = whole.points[np.abs(whole.points[:, 2] - z) < 0.02]
    near = shapes.Extent(slice_ if len(slice_) >= 8 else whole.points)
    angles = np.linspace(0, np.pi, _DIRECTIONS, endpoint=False)
    return z, near, angles, np.array([near.width(angle)[0] for angle in angles])


def rim(whole: shapes.Extent) -> list[Way]:
    """The ways to take it by its rim, the fingers closing across the wall."""
    upper = whole.points[whole.points[:, 2] > whole.top - 0.015][:, :2] - whole.middle
    ways = []
    for angle in np.linspace(-np.pi, np.pi, 2 * _DIRECTIONS, endpoint=False):
        out = np.array([np.cos(angle), np.sin(angle)])
        ray = upper[np.abs(upper @ np.array([-out[1], out[0]])) < 0.02] @ out
        if len(ray) and ray.max() > 0.02:
            ways.append((float(angle), np.append(whole.middle + (ray.max() - 0.004) * out, whole.top - 0.02)))
    return ways


def closed_above(whole: shapes.Extent) -> bool:
    """Whether a lid or knob is where a bowl or mug is open: what is highest is far inside of what is widest."""
    upper = whole.points[whole.points[:, 2] > whole.top - 0.01][:, :2]
    return bool(np.ptp(upper, axis=0).max() < 0.5 * np.ptp(whole.points[:, :2], axis=0).min())


def handle(whole: shapes.Extent) -> list[Way]:
    """By the part that stands out farthest from the middle of its top, the fingers closing across it."""
    upper = whole.points[whole.points[:, 2] > whole.top - 0.01][:, :2]
    middle = (upper.min(0) + upper.max(0)) / 2
    away = whole.points[:, :2] - middle
    far = np.linalg.norm(away, axis=1)
    end = whole.points[far > far.max() - _FINGER / 2]
    out = end[:, :2].mean(0) - middle
    out /= np.linalg.norm(out)
    point = middle + (far.max() - 0.018) * out
    return [(float(np.arctan2(out[1], out[0]) + np.pi / 2), np.append(point, end[:, 2].max() - 0.022))]


def _blocked(angle: float, point: Point, obstacles: Point) -> float:
    """How much stands where fingers and hand would be: 0 nothing, each point of an obstacle a little."""
    away = obstacles - point
    along = np.abs(away[:, 0] * np.cos(angle) + away[:, 1] * np.sin(angle))
    beside = np.abs(away[:, 1] * np.cos(angle) - away[:, 0] * np.sin(angle))
    fingers = (along < 0.06) & (beside < 0.02) & (away[:, 2] > -0.012)
    palm = (along < 0.12) & (beside < 0.05) & (away[:, 2] > 0.04)
    return 0.5 * int((fingers | palm).sum())
