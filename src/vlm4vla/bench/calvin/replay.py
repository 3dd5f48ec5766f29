"""A recording of the original environment, executed in ours and compared at every step.

A recording is an .npz without pickled objects: ``scene``, ``robot_obs_init`` (15), ``scene_obs_init`` (24), relative
``actions`` (T, 7), and after each of them ``robot_obs`` (T, 15), ``scene_obs`` (T, 24) and ``tasks`` (T), the solved
tasks joined by ``|``. Optional pictures ``rgb_static_first``, ``rgb_gripper_first`` (after the reset) and ``..._last``.
"""

import zipfile
from typing import Any

import numpy as np

from vlm4vla.bench import assets
from vlm4vla.bench.calvin import protocol
from vlm4vla.bench.calvin.oracle import solved
from vlm4vla.bench.calvin.render import painter
from vlm4vla.bench.calvin.scenes import SCENES
from vlm4vla.bench.calvin.world import World
from vlm4vla.types import Image, refuse

PICTURE_DIFFERENCE = 1.0  # grey levels, mean over a picture: drivers differ
_OFFICIAL_NEAR = 0.01  # of the static camera
_SHAPES = {"robot_obs_init": (15,), "scene_obs_init": (24,), "actions": (7,), "robot_obs": (15,), "scene_obs": (24,)}
_PER_STEP = ("actions", "robot_obs", "scene_obs", "tasks")


def replay(path: str) -> dict[str, Any]:
    """What was compared: ``ok`` when states are equal to the bit, solved tasks too, and pictures nearly."""
    recording = _load(path)
    data = assets.folder("calvin") / "calvin_env/data"
    world = World(data, forgets_led=False)
    try:
        return {"file": path} | _compare(recording, world)
    finally:
        world.close()


def _compare(recording: dict[str, Any], world: World) -> dict[str, Any]:
    world.build(str(recording["scene"]), recording["robot_obs_init"], recording["scene_obs_init"])
    start = world.facts()
    pictures = _pictures(recording, world, "first")
    different, largest, wrong = [], 0.0, []
    steps = len(recording["actions"])
    for i, action in enumerate(recording["actions"]):
        world.step_relative(action)
        gaps = [recording["robot_obs"][i] - world.robot_obs(), recording["scene_obs"][i] - world.scene_obs()]
        gap = float(np.abs(np.concatenate(gaps)).max())
        largest = max(largest, gap)
        if gap != 0.0:  # also where it is not a number
            different.append(i)
        if set(solved(start, world.facts())) != set(filter(None, str(recording["tasks"][i]).split("|"))):
            wrong.append(i)
    pictures |= _pictures(recording, world, "last")
    blurred = [name for name, difference in pictures.items() if not difference <= PICTURE_DIFFERENCE]
    text = (
        f"{steps - len(different)} of {steps} states equal, {steps - len(wrong)} of {steps} results of the task rules"
    )
    if pictures:
        text += f", pictures differ by {max(pictures.values()):.3f} grey levels at most"
    return {
        "scene": str(recording["scene"]),
        "steps": steps,
        "ok": not (different or wrong or blurred),
        "text": text,
        "states_equal": steps - len(different),
        "first_different": different[0] if different else None,
        "largest_difference": largest,
        "tasks_equal": steps - len(wrong),
        "pictures": pictures,
    }


def _pictures(recording: dict[str, Any], world: World, when: str) -> dict[str, float]:
    """Mean difference in grey levels of every picture that was recorded then."""
    wanted = tuple(camera for camera in (protocol.STATIC, protocol.GRIPPER) if f"rgb_{camera}_{when}" in recording)
    if not wanted:
        return {}
    data = assets.folder("calvin") / "calvin_env/data"
    drawn = painter(data).draw(world, wanted, static_near=_OFFICIAL_NEAR)
    names = {camera: f"rgb_{camera}_{when}" for camera in wanted}
    return {name: _difference(drawn[camera], recording[name]) for camera, name in names.items()}


def _difference(a: Image, b: Image) -> float:
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean()) if a.shape == b.shape else float("inf")


def _load(path: str) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise _not_one(path, "it is no .npz, is damaged, or holds pickled objects") from error
    lacking = {"scene", "tasks", *_SHAPES} - set(found)
    if lacking:
        raise _not_one(path, f"it has no {sorted(lacking)[0]!r}")
    if str(found["scene"]) not in SCENES:
        raise _not_one(path, f"its scene is {str(found['scene'])!r}")
    lengths = {name: len(found[name]) for name in _PER_STEP}
    if len(set(lengths.values())) > 1:
        raise _not_one(path, f"its lengths differ: {lengths}")
    for name, shape in _SHAPES.items():
        if found[name].shape[-1:] != shape or not np.isfinite(found[name]).all():
            raise _not_one(path, f"{name} has shape {found[name].shape}, or numbers that are not finite")
    return found


def _not_one(path: str, why: str) -> Exception:
    return refuse(
        f"{path} is not a recording: {why}",
        possible="an .npz without pickled objects, with scene, robot_obs_init, scene_obs_init, actions, robot_obs, "
        "scene_obs and tasks",
        todo="Give such a file; the benchmark's README has the layout.",
    )
