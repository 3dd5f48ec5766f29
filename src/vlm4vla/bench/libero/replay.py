"""Demonstrations of LIBERO's own file format, executed here and compared with what they say.

Files of ours say where each demonstration began (split and seed), so that its start is built anew and every stored
state must come out to the bit; those of another version of the benchmark are refused. Others begin at their stored
state, in a scene whose fixtures may stand elsewhere (they are no part of a state): there only success and the largest
difference are told.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vlm4vla.bench.libero import variants
from vlm4vla.bench.libero.env import Benchmark
from vlm4vla.bench.libero.sim import PandaEnv
from vlm4vla.bench.libero.tasks import SUITE_OF
from vlm4vla.types import EpisodeSpec, Split, refuse

_SUFFIX = "_demo.hdf5"


def replay(path: str) -> dict[str, Any]:
    """All demonstrations of a file: ``ok`` when each succeeds again, and ours in the same states to the bit."""
    task = Path(path).name.removesuffix(_SUFFIX)
    if task not in SUITE_OF:
        raise refuse(
            f"{path} is of no task of this benchmark",
            given=task,
            possible=SUITE_OF,
            todo=f"Name the file after its task: TASK{_SUFFIX}.",
        )
    recorded, demos = _load(path)
    bench = Benchmark()
    if recorded is not None and recorded != bench.id:
        raise _of_another_protocol(path, recorded, bench.id)
    env = bench.make(task)
    assert isinstance(env, PandaEnv)
    try:
        found = [_one(env, bench, task, demo) for demo in demos]
    finally:
        env.close()
    solved, exact = sum(f["success"] for f in found), sum(f["states_equal"] == f["steps"] for f in found)
    ours = sum(f["ours"] for f in found)
    gaps = [f["max_abs_diff"] for f in found]
    largest = max(gap for gap in gaps if gap is not None) if None not in gaps else None
    text = f"{solved} of {len(found)} succeed again, {exact} of {len(found)} in equal states"
    return {
        "file": path,
        "ok": solved == len(found) and all(f["states_equal"] == f["steps"] for f in found if f["ours"]),
        "text": text + (f" (largest difference {largest})" if exact < len(found) else ""),
        "demos": len(found),
        "ours": ours,
        "successes": solved,
        "states_equal": exact,
        "max_abs_diff": largest,
    }


def _one(env: PandaEnv, bench: Benchmark, task: str, demo: dict[str, Any]) -> dict[str, Any]:
    """One demonstration: actions (N, 7) with the file's gripper sense, states (N, S), ours (null: somebody else's)."""
    ours = demo["ours"]
    split: Split = "train" if ours else "eval"
    seed, index = (ours["info"]["seed"], ours["source"]) if ours else (0, 0)
    env.reset(EpisodeSpec(bench.id, split, task, index, seed, ""), render=False)
    if ours is None:
        env.restore(demo["states"][0])
    if demo["states"].shape[1:] != env.vectors()["states"].shape:  # another scene, or another version of it
        return {"ours": ours is not None, "success": False, "steps": 1, "states_equal": 0, "max_abs_diff": None}
    differences: list[float] = []
    success = False
    for state, action in zip(demo["states"], demo["actions"], strict=True):
        here = env.vectors()["states"]
        differences.append(float(np.abs(here - state).max()))
        house = np.append(action[:6], -action[6]).astype(np.float32)
        success = env.step(np.clip(house, -1, 1), render=False).success or success
    return {
        "ours": ours is not None,
        "success": success,
        "steps": len(differences),
        "states_equal": sum(d == 0.0 for d in differences),
        "max_abs_diff": max(differences),
    }


def _of_another_protocol(path: str, recorded: str, here: str) -> Exception:
    """Settling and steps are others there, so that nothing said of a replay would be about the file."""
    names = {variant.id: name for name, variant in variants.VARIANTS.items()}
    if recorded not in names:
        todo = "Replay it with the version of this package that has that protocol."
    elif names[recorded]:
        todo = f"Set {variants.SETTING}={names[recorded]}."
    else:
        todo = f"Do not set {variants.SETTING}."
    return refuse(
        f"{path} was recorded under {recorded!r}, and here is {here!r}", possible=f"files of {here}", todo=todo
    )


def _load(path: str) -> tuple[str | None, list[dict[str, Any]]]:
    """The benchmark's id that a file was recorded under (null: it says none), and the demonstrations."""
    try:
        with h5py.File(path, "r") as file:
            data = file["data"]
            names = sorted(data, key=lambda name: int(name.removeprefix("demo_")))
            told = json.loads(data.attrs.get("vlm4vla", "{}"))
            return told.get("section", {}).get("benchmark"), [_demo(data[name]) for name in names]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise refuse(
            f"{path} is no file of demonstrations: {type(error).__name__} {error}",
            possible="LIBERO's HDF5 with data/demo_N/{actions,states}",
            todo="Write one with `vlm4vla bench demos libero --out FOLDER`, or fetch an official one.",
        ) from error


def _demo(demo: h5py.Group) -> dict[str, Any]:
    told = demo.attrs.get("vlm4vla")
    actions: npt.NDArray[np.float64] = demo["executed_actions" if "executed_actions" in demo else "actions"][()]
    states: npt.NDArray[np.float64] = demo["states"][()]
    if actions.ndim != 2 or actions.shape[1] != 7 or len(states) != len(actions) or not len(actions):
        raise ValueError(f"actions {actions.shape}, states {states.shape}")
    ours = None if told is None else json.loads(told)
    if ours is not None and not (isinstance(ours["info"]["seed"], int) and isinstance(ours["source"], int)):
        raise ValueError("a demonstration that does not say where it began")
    return {"actions": actions, "states": states, "ours": ours}
