"""Pictures of a world, from a second pybullet client that only draws: it is told where everything is.

A world is built anew for every start, and each rebuild in a client that draws with EGL costs 15 MB that never come
back. So there is one drawing client a process, kept for its life; scenes that are not shown wait below the floor.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pybullet as p

from vlm4vla.bench import common
from vlm4vla.bench.calvin import backend, protocol
from vlm4vla.bench.calvin.scenes import BY_NAME
from vlm4vla.bench.calvin.world import (
    ARM,
    FINGERS,
    LIGHT_LINKS,
    World,
    load_block,
    load_plane,
    load_robot,
    load_table,
    names_of,
)
from vlm4vla.types import CameraShift, Image

_AWAY = (0.0, 0.0, -50.0)
_LEVEL = (0.0, 0.0, 0.0, 1.0)
_DARK, _GLOW = (1, 1, 1, 1), {"lightbulb": (1, 1, 0, 1), "led": (0, 1, 0, 1)}

_UNMOVED: Final[Mapping[str, CameraShift]] = MappingProxyType({})

_kept: list["Painter"] = []


def painter(data: Path) -> "Painter":
    """The one of this process."""
    if not _kept:
        _kept.append(Painter(data))
    return _kept[0]


class Painter:
    """Draws what both cameras see of a world."""

    def __init__(self, data: Path) -> None:
        self._data = data
        renderer, _ = backend.chosen()
        largest = max(protocol.STATIC_PICTURE, protocol.GRIPPER_PICTURE)
        self._client: int = p.connect(p.DIRECT, options=f"--width={largest} --height={largest}")
        self._options: dict[str, Any] = {"flags": p.ER_NO_SEGMENTATION_MASK, "physicsClientId": self._client}
        if renderer == backend.EGL:
            if p.loadPlugin(backend.plugin_path(), backend.PLUGIN, physicsClientId=self._client) < 0:
                raise RuntimeError("pybullet's EGL plugin has worked in a trial process and does not load in this one.")
        else:
            self._options["renderer"] = p.ER_TINY_RENDERER
        self._robot = load_robot(data, self._client)
        load_plane(data, self._client)
        links = names_of(self._robot, self._client)[1]
        self._hand_camera = links["gripper_cam"]
        self._sets: dict[str, tuple[int, dict[str, int]]] = {}  # scene -> table, block -> body
        self._homes: dict[int, Any] = {}  # table -> its place (Bullet's: that of its centre of mass)
        self._lights: dict[tuple[int, str], int] = {}
        self._shown = ""
        self._static_view = p.computeViewMatrix(protocol.LOOK_FROM, protocol.LOOK_AT, protocol.UP)
        self._hand_lens = p.computeProjectionMatrixFOV(
            protocol.GRIPPER_FIELD_OF_VIEW, 1.0, protocol.GRIPPER_NEAR, protocol.GRIPPER_FAR
        )

    def draw(
        self,
        world: World,
        cameras: tuple[str, ...],
        static_near: float = protocol.STATIC_NEAR,
        shifts: Mapping[str, CameraShift] = _UNMOVED,
    ) -> dict[str, Image]:
        """Pictures (height, width, 3) of the world as it is now, by camera. ``static_near``: near plane in metres.

        ``shifts`` move the cameras that they name; the camera on the hand against the hand.
        """
        self._show(world)
        return {
            n: self._static(static_near, shifts.get(n)) if n == protocol.STATIC else self._hand(world, shifts.get(n))
            for n in cameras
        }

    def _show(self, world: World) -> None:
        name = world.scene.name
        fresh = name not in self._sets
        if fresh:
            sizes = BY_NAME[name].blocks
            bodies = {b: load_block(self._data, size, _AWAY, _LEVEL, self._client) for b, size in sizes.items()}
            table = load_table(self._data, name, self._client)
            self._homes[table] = p.getBasePositionAndOrientation(table, physicsClientId=self._client)
            self._sets[name] = table, bodies
        if self._shown != name:
            for other, (table, bodies) in self._sets.items():
                self._put(table, *(self._homes[table] if other == name else (_AWAY, _LEVEL)))
                for body in bodies.values():
                    self._put(body, _AWAY, _LEVEL)
            self._shown = name
        table, bodies = self._sets[name]
        for block, body in bodies.items():
            self._put(body, *p.getBasePositionAndOrientation(world.blocks[block], physicsClientId=world.client))
        for source, target, joints in (
            (world.robot, self._robot, (*ARM, *FINGERS)),
            (world.table, table, tuple(world.joints.values())),
        ):
            for joint in joints:
                value = p.getJointState(source, joint, physicsClientId=world.client)[0]
                p.resetJointState(target, joint, value, physicsClientId=self._client)
        for light, state in world.lights.items():
            if self._lights.get((table, light)) != state:
                colour = _GLOW[light] if state else _DARK
                link = world.links[LIGHT_LINKS[light]]
                p.changeVisualShape(table, link, rgbaColor=colour, physicsClientId=self._client)
                self._lights[table, light] = state
        if fresh:  # the first picture of what has just been loaded lacks its shadows
            self._static(protocol.STATIC_NEAR)
            self._static(protocol.STATIC_NEAR)

    def _put(self, body: int, position: Any, turn: Any) -> None:
        p.resetBasePositionAndOrientation(body, position, turn, physicsClientId=self._client)

    def _static(self, near: float, shift: CameraShift | None = None) -> Image:
        lens = p.computeProjectionMatrixFOV(protocol.STATIC_FIELD_OF_VIEW, 1.0, near, protocol.STATIC_FAR)
        view = self._static_view if shift is None else _moved_view(self._static_view, shift)
        return self._picture(protocol.STATIC_PICTURE, view, lens)

    def _hand(self, world: World, shift: CameraShift | None = None) -> Image:
        # From the world, not from the copy: Bullet's link state lags behind the joints by one physics step, and the
        # original looks from there.
        state = p.getLinkState(world.robot, self._hand_camera, physicsClientId=world.client)
        position, axes = np.array(state[0]), np.array(p.getMatrixFromQuaternion(state[1])).reshape(3, 3)
        view = p.computeViewMatrix(position, position + axes[:, 1], -axes[:, 2])
        if shift is not None:
            view = _moved_view(view, shift)
        return self._picture(protocol.GRIPPER_PICTURE, view, self._hand_lens)

    def _picture(self, size: int, view: Any, lens: Any) -> Image:
        pixels = p.getCameraImage(size, size, view, lens, **self._options)[2]
        return np.ascontiguousarray(np.reshape(pixels, (size, size, 4))[:, :, :3].astype(np.uint8))


def _moved_view(view: tuple[float, ...], shift: CameraShift) -> tuple[float, ...]:
    """The view matrix after a move: Bullet's 16 numbers, column by column, from the world to OpenGL's camera."""
    matrix: npt.NDArray[np.float64] = np.array(view).reshape(4, 4).T
    axes = matrix[:3, :3].T  # columns: to the right, up, towards the viewer
    place, turned = common.moved(-axes @ matrix[:3, 3], axes, shift)
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = turned.T, -turned.T @ place
    return tuple(out.T.ravel().tolist())
