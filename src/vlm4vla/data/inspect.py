"""Looking into a store: numbers for the terminal, histograms, and a contact sheet of an episode."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vlm4vla.data.store import EpisodeEntry, Store
from vlm4vla.types import Dimension, refuse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILES = 12  # pictures per camera on a contact sheet
_COLUMNS, _BINS = 4, 60  # of the histograms
_QUANTILES = {"min": 0.0, "q01": 0.01, "q25": 0.25, "median": 0.5, "q75": 0.75, "q99": 0.99, "max": 1.0}


def info(store: Store) -> dict[str, Any]:
    """What the store holds, as plain JSON data; lengths in frames, sizes in bytes."""
    lengths = np.array([e.length for e in store.episodes])
    tasks: dict[str, dict[str, Any]] = {}
    for e in store.episodes:
        task = tasks.setdefault(e.task, {"episodes": 0, "frames": 0, "instructions": []})
        task["episodes"] += 1
        task["frames"] += e.length
        if e.instruction not in task["instructions"]:
            task["instructions"].append(e.instruction)
    return {
        "path": str(store.path),
        "digest": store.digest,
        "episodes": len(store.episodes),
        "frames": len(store),
        "length": {"min": int(lengths.min()), "median": float(np.median(lengths)), "max": int(lengths.max())},
        "tasks": tasks,
        "cameras": {c.name: [c.height, c.width] for c in store.cameras},
        "encoding": store.encoding,
        "bytes": sum(g["bytes"] for g in store.manifest["groups"]),
        "state": list(store.state_names),
        "action_spec": store.action_spec.to_dict(),
        "source": store.provenance["source"],
        "reader": store.provenance.get("reader"),
        "left_out": left_out(store),
    }


def left_out(store: Store) -> dict[str, int]:
    """What the reader left out: frames (``dropped_X``, summed over episodes) and episodes (``skipped_X``)."""
    found: dict[str, int] = {}
    for e in store.episodes:
        for key, count in e.info.items():
            if key.startswith("dropped_"):
                found[key] = found.get(key, 0) + int(count)
            elif key.startswith("skipped_"):
                found[key] = int(count)  # of the whole data set, said by each of its episodes
    return found


Numbers = dict[str, dict[str, float | None]]


def stats(store: Store) -> dict[str, Numbers]:
    """``actions`` and ``states``: per dimension exact quantiles, mean and standard deviation over all frames; actions
    also with the spec's limits (low, high). What JSON has no number for (infinity, NaN) is None."""
    actions = _numbers([d.name for d in store.action_spec.dimensions], store.actions)
    for d in store.action_spec.dimensions:
        actions[d.name] |= {"low": _or_none(d.low), "high": _or_none(d.high)}
    states = {} if store.states is None else _numbers(list(store.state_names), store.states)
    return {"actions": actions, "states": states}


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _numbers(names: list[str], values: npt.NDArray[np.float32]) -> Numbers:
    exact = values.astype(np.float64)
    rows = dict(zip(_QUANTILES, np.quantile(exact, list(_QUANTILES.values()), axis=0), strict=True))
    rows |= {"mean": exact.mean(axis=0), "std": exact.std(axis=0)}
    return {name: {key: _or_none(row[i]) for key, row in rows.items()} for i, name in enumerate(names)}


def table(numbers: dict[str, Numbers]) -> str:
    """What :func:`stats` found, as aligned columns for a terminal."""
    lines: list[str] = []
    for part, dimensions in numbers.items():
        if not dimensions:
            continue
        keys = list(next(iter(dimensions.values())))
        width = max(len(name) for name in (part, *dimensions))
        lines.append(part.ljust(width) + "".join(f"{key:>11}" for key in keys))
        for name, row in dimensions.items():
            cells = ["-" if row[key] is None else f"{row[key]:.4g}" for key in keys]
            lines.append(name.ljust(width) + "".join(f"{cell:>11}" for cell in cells))
        lines.append("")
    return "\n".join(lines)


def histograms(store: Store, out_png: Path) -> None:
    """Write one histogram per dimension of actions and states; dashed: q01 and q99, red: the limits of the spec."""
    figure_of = _figure()
    spec = store.action_spec
    series = [(d.name, d.unit, store.actions[:, i], (d.low, d.high)) for i, d in enumerate(spec.dimensions)]
    count = len(series)
    if store.states is not None:
        series += [(n, "state", store.states[:, i], (-np.inf, np.inf)) for i, n in enumerate(store.state_names)]
    columns = min(_COLUMNS, len(series))
    rows = -(-len(series) // columns)
    figure = figure_of(figsize=(3.1 * columns, 1.9 * rows + 0.6), dpi=110, layout="constrained")
    figure.suptitle(f"{store.path.name}: {len(store.episodes)} episodes, {len(store)} frames", fontsize=10)
    for i, (name, unit, values, limits) in enumerate(series):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.hist(values, bins=_BINS, color="#3b6ea5" if i < count else "#6b7f5c")
        for q in np.quantile(values, [0.01, 0.99]):
            axes.axvline(q, color="black", linestyle="--", linewidth=0.8)
        left, right = axes.get_xlim()
        for limit in limits:
            if left <= limit <= right:
                axes.axvline(limit, color="#b3261e", linewidth=1.2)
        short = unit.partition("(")[0].strip()
        axes.set_title(f"{name} [{short}]" if i < count else f"{name} [state]", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=5)
        axes.set_yticks([])
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png)


def _figure() -> "type[Figure]":
    try:
        from matplotlib.figure import Figure  # here: an optional dependency, and slow to import
    except ImportError as error:
        raise refuse("A PNG sheet needs matplotlib", todo="Install it: pip install 'vlm4vla[report]'.") from error
    return Figure


def entry_of(store: Store, episode: int) -> EpisodeEntry:
    """An episode by its number; refuses one that is not there."""
    if not 0 <= episode < len(store.episodes):
        raise refuse(
            f"The store has no episode {episode}",
            possible=f"0 to {len(store.episodes) - 1}",
            todo="Give the number of an episode; 'vlm4vla data info' counts them.",
        )
    return store.episodes[episode]


def show(store: Store, episode: int, out_png: Path) -> None:
    """Write a contact sheet: pictures of every camera at even spacing, the action traces, the instruction."""
    entry = entry_of(store, episode)
    figure_of = _figure()
    steps = np.unique(np.linspace(0, entry.length - 1, min(_TILES, entry.length)).astype(int))
    rows = len(store.cameras)
    figure = figure_of(figsize=(1.2 * len(steps), 1.45 * rows + 2.4), dpi=110, layout="constrained")
    title = f"episode {episode}: {entry.instruction}"
    title = title if entry.task == entry.instruction else f"{entry.task}, {title}"
    figure.suptitle(title, fontsize=10, parse_math=False)
    grid = figure.add_gridspec(rows + 1, len(steps), height_ratios=[1.0] * rows + [1.7])
    for r, camera in enumerate(store.cameras):
        for c, step in enumerate(steps):
            axes = figure.add_subplot(grid[r, c])
            axes.imshow(store.image(entry.start + int(step), camera.name))
            axes.set_title(f"{camera.name} {step}" if c == 0 else str(step), fontsize=7)
            axes.set_axis_off()
    _traces(figure, grid[rows, :], store, episode)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png)


def _traces(figure: "Figure", place: Any, store: Store, episode: int) -> None:
    """One plot per unit: millimetres would be a flat line beside a gripper's +1."""
    entry = store.episodes[episode]
    units = list(dict.fromkeys(_unit(d) for d in store.action_spec.dimensions))
    grid = place.subgridspec(1, len(units))
    for column, unit in enumerate(units):
        axes = figure.add_subplot(grid[column])
        members = [(i, d) for i, d in enumerate(store.action_spec.dimensions) if _unit(d) == unit]
        for n, (i, d) in enumerate(members):
            style = ("-", ":", "-.")[n // 10 % 3]  # ten colours, then another line
            axes.plot(store.actions[entry.start : entry.stop, i], style, linewidth=1, label=d.name)
        axes.set_xlabel("frame", fontsize=7)
        axes.set_title(unit, fontsize=7)
        axes.tick_params(labelsize=7)
        if len(members) <= 10:
            axes.legend(fontsize=6, frameon=False, loc="best")


def _unit(d: Dimension) -> str:
    return "gripper, +1 open" if d.kind == "gripper" else f"{d.kind}, {d.unit}"
