"""Looking into a store: numbers for the terminal, and a contact sheet of an episode."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm4vla.data.store import Store
from vlm4vla.types import refuse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILES = 12  # pictures per camera on a contact sheet


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
    }


def stats(store: Store) -> dict[str, dict[str, float]]:
    """Statistics per action dimension: min, q01, mean, std, q99, max, and the spec's limits (low, high)."""
    found = store.statistics()
    names = ("min", "q01", "mean", "std", "q99", "max")
    return {
        d.name: {"low": d.low, "high": d.high, **{name: getattr(found, name)[i] for name in names}}
        for i, d in enumerate(store.action_spec.dimensions)
    }


def show(store: Store, episode: int, out_png: Path) -> None:
    """Write a contact sheet: pictures of every camera at even spacing, the action traces, the instruction."""
    if not 0 <= episode < len(store.episodes):
        raise refuse(
            f"The store has no episode {episode}",
            possible=f"0 to {len(store.episodes) - 1}",
            todo="Give the number of an episode; 'vlm4vla data info' counts them.",
        )
    try:
        from matplotlib.figure import Figure  # here: an optional dependency, and slow to import
    except ImportError as error:
        raise refuse("A contact sheet needs matplotlib", todo="Install it: pip install 'vlm4vla[report]'.") from error

    entry = store.episodes[episode]
    steps = np.unique(np.linspace(0, entry.length - 1, min(_TILES, entry.length)).astype(int))
    rows = len(store.cameras)
    figure = Figure(figsize=(1.2 * len(steps), 1.45 * rows + 2.4), dpi=110, layout="constrained")
    figure.suptitle(f"{entry.task}, episode {episode}: {entry.instruction}", fontsize=10)
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
    entry = store.episodes[episode]
    axes = figure.add_subplot(place)
    for i, d in enumerate(store.action_spec.dimensions):
        style = "--" if d.kind == "gripper" else "-"
        axes.plot(store.actions[entry.start : entry.stop, i], style, linewidth=1, label=d.name)
    axes.set_xlabel("frame", fontsize=7)
    axes.set_ylabel("action", fontsize=7)
    axes.tick_params(labelsize=7)
    figure.legend(fontsize=7, ncols=store.action_spec.size, loc="outside lower center", frameon=False)
