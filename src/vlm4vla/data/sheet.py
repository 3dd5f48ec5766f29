"""An episode as one self-contained HTML file: pictures, traces of every number, and all frames as a table.

No script, nothing loaded from elsewhere; texts of the data set are escaped.
"""

import base64
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlm4vla.data.inspect import entry_of
from vlm4vla.data.pictures import encode
from vlm4vla.data.store import EpisodeEntry, Store
from vlm4vla.records import write_atomic
from vlm4vla.types import Dimension

_TILES = 24  # pictures per camera
_WIDTH, _HEIGHT, _PAD = 1000, 64, 6  # of a trace, in the units of its drawing

_STYLE = """
:root{color-scheme:light;--ink:#1b1f24;--soft:#5b6470;--line:#d7dce2;--action:#2f6db3;--state:#5d7a3e;--limit:#b3261e}
*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:#fff;max-width:1240px;margin:0 auto;padding:20px}
h1{font-size:24px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:17px;margin:26px 0 8px}
p.meta,figcaption,.range{color:var(--soft);font-size:13px}p.meta{margin:0;overflow-wrap:anywhere}
.film{display:grid;grid-template-columns:repeat(auto-fill,minmax(var(--tile),1fr));gap:6px}
figure{margin:0}figure img{width:100%;display:block;border-radius:3px;background:#eee}
.trace{display:grid;grid-template-columns:200px minmax(0,1fr) 84px;gap:10px;align-items:center;
border-top:1px solid var(--line);padding:3px 0}
.name{overflow-wrap:anywhere}.name b{display:block;font-weight:600;font-size:14px}
.name span{color:var(--soft);font-size:12px}
.range{text-align:right;font-variant-numeric:tabular-nums;display:flex;flex-direction:column;
justify-content:space-between;height:56px}
svg{width:100%;height:64px;display:block}
svg path{fill:none;vector-effect:non-scaling-stroke}
.action path.value{stroke:var(--action);stroke-width:1.6}.state path.value{stroke:var(--state);stroke-width:1.6}
path.limit{stroke:var(--limit);stroke-width:1;stroke-dasharray:5 4}path.zero{stroke:#aab2bc;stroke-width:1}
path.tick{stroke:#e9ecf0;stroke-width:1}rect.open{fill:#cfe6cf}rect.closed{fill:#f3d9c8}
.key i{display:inline-block;width:14px;height:10px;margin:0 4px 0 12px;border-radius:2px}
summary{cursor:pointer;font-size:17px;font-weight:600;margin:26px 0 8px}
.scroll{overflow:auto;max-height:70vh;border:1px solid var(--line)}
table{border-collapse:collapse;font-size:12px;font-variant-numeric:tabular-nums}
th,td{padding:2px 9px;text-align:right;white-space:nowrap}tbody tr:nth-child(even){background:#f5f7f9}
thead th{position:sticky;top:0;background:#fff;border-bottom:1px solid var(--line)}
@media(max-width:640px){body{padding:12px}.trace{grid-template-columns:88px minmax(0,1fr) 62px;gap:6px}
.film{grid-template-columns:repeat(auto-fill,minmax(72px,1fr))}}
@media print{.scroll{max-height:none;overflow:visible}}
""".strip()


def write_html(store: Store, episode: int, out: Path) -> None:
    """Write the sheet of an episode."""
    write_atomic(out, html(store, entry_of(store, episode)))


def html(store: Store, e: EpisodeEntry) -> str:
    """The whole page."""
    steps = np.unique(np.linspace(0, e.length - 1, min(_TILES, e.length)).astype(int))
    title = f"{e.task}, episode {e.episode}"
    hz, last = store.action_spec.control_hz, len(store.episodes) - 1
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">',
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>',
        f"<h1>{escape(e.instruction) or '(no instruction)'}</h1>",
        f'<p class="meta">Task {escape(e.task)} · episode {e.episode} (0 to {last}) · {e.length} frames, '
        f"{e.length / hz:.1f} s at {hz:g} Hz · episode {e.source} of the source</p>",
        f'<p class="meta">Store {escape(store.path.name)} · content {escape(store.digest[:12])}</p>',
    ]
    for camera in store.cameras:
        tile = 88 if len(steps) > 8 else 136  # two rows of twelve, or one of eight
        parts.append(f'<h2>Camera {escape(camera.name)}</h2><div class="film" style="--tile:{tile}px">')
        parts += _film(store, e, camera.name, steps)
        parts.append("</div>")
    parts.append('<h2>Actions</h2><p class="meta key">Vertical lines are the frames above; red dashes the limits.')
    if store.action_spec.gripper:
        parts.append(
            'Gripper:<i style="background:#cfe6cf"></i>opens (+1)<i style="background:#f3d9c8"></i>closes (-1)'
        )
    parts.append("</p>")
    for i, d in enumerate(store.action_spec.dimensions):
        parts.append(_trace(d.name, f"{d.kind}, {d.unit}", store.actions[e.start : e.stop, i], steps, d))
    if store.states is not None:
        parts.append("<h2>States</h2>")
        for i, name in enumerate(store.state_names):
            parts.append(_trace(name, "", store.states[e.start : e.stop, i], steps, None))
    parts += [*_table(store, e), "</body></html>", ""]
    return "\n".join(parts)


def _film(store: Store, e: EpisodeEntry, camera: str, steps: npt.NDArray[np.int64]) -> Iterator[str]:
    for step in steps:
        data = base64.b64encode(encode(store.image(e.start + int(step), camera), "jpeg")).decode()
        yield (
            f'<figure><img alt="{escape(camera)}, frame {step}" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{step}</figcaption></figure>"
        )


def _trace(
    name: str, unit: str, values: npt.NDArray[np.float32], steps: npt.NDArray[np.int64], d: Dimension | None
) -> str:
    """One number over the episode on its own scale; ``d`` for actions, None for states."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    gripper = d is not None and d.kind == "gripper"
    bottom, top = (-1.0, 1.0) if gripper else (low, high)
    scale = f"<span>{top:.3g}</span><span>{bottom:.3g}</span>"
    if top == bottom:
        scale = f"<span>constant</span><span>{top:.3g}</span>"
        bottom, top = bottom - 1, top + 1

    def x(step: float) -> float:
        return float(step / max(len(values) - 1, 1) * _WIDTH)

    def y(value: float) -> float:
        return _PAD + (top - value) / (top - bottom) * (_HEIGHT - 2 * _PAD)

    def across(value: float, kind: str) -> str:
        return f'<path class="{kind}" d="M0 {y(value):.1f}H{_WIDTH}"/>' if bottom <= value <= top else ""

    drawn = list(_bands(values, x)) if gripper else []
    drawn += [f'<path class="tick" d="M{x(step):.1f} 0V{_HEIGHT}"/>' for step in steps]
    drawn.append(across(0.0, "zero"))
    if d is not None and not gripper:
        drawn += [across(d.low, "limit"), across(d.high, "limit")]
    pen, points = "M", []
    for step, value in enumerate(values):
        if np.isfinite(value):
            points.append(f"{pen}{x(step):.1f} {y(float(value)):.1f}")
        pen = "L" if np.isfinite(value) else "M"
    drawn.append(f'<path class="value" d="{"".join(points)}"/>')
    label = escape(f"{name} from {low:.4g} to {high:.4g}")
    return (
        f'<div class="trace {"state" if d is None else "action"}"><div class="name"><b>{escape(name)}</b>'
        f"<span>{escape(unit)}</span></div>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'{"".join(drawn)}</svg><div class="range">{scale}</div></div>'
    )


def _bands(values: npt.NDArray[np.float32], x: Callable[[float], float]) -> Iterator[str]:
    """Green where the gripper is told to open, orange where it is told to close."""
    first = 0
    for step in range(1, len(values) + 1):
        if step == len(values) or (values[step] > 0) != (values[first] > 0):
            kind = "open" if values[first] > 0 else "closed"
            left, right = x(first), x(step) if step < len(values) else _WIDTH
            yield f'<rect class="{kind}" x="{left:.1f}" y="0" width="{right - left:.1f}" height="{_HEIGHT}"/>'
            first = step


def _table(store: Store, e: EpisodeEntry) -> Iterator[str]:
    """All frames, folded."""
    names = [d.name for d in store.action_spec.dimensions] + [f"state {n}" for n in store.state_names]
    yield f"<details><summary>All {e.length} frames as numbers</summary>" + '<div class="scroll"><table>'
    yield "<thead><tr><th>frame</th>" + "".join(f"<th>{escape(n)}</th>" for n in names) + "</tr></thead><tbody>"
    for step in range(e.length):
        row = list(store.actions[e.start + step])
        row += list(store.states[e.start + step]) if store.states is not None else []
        yield f"<tr><td>{step}</td>" + "".join(f"<td>{value:.5g}</td>" for value in row) + "</tr>"
    yield "</tbody></table></div></details>"
