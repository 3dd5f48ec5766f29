"""The four scenes as data, read off the official settings (calvin_env @797142c, conf/scene and conf/robot).

Metres, radians, world frame. Order of the blocks is the order in which they are loaded and stand in ``scene_obs``:
always find a block by name.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SCENES = ("A", "B", "C", "D")
BLOCKS = ("block_red", "block_blue", "block_pink")
DOORS = ("base__slide", "base__drawer")
LIGHTS = ("lightbulb", "led")
SCALE = 0.8  # of tables and blocks, not of the robot

ROBOT_BASE = (-0.34, -0.46, 0.24)
ROBOT_JOINTS = (-1.21779206, 1.03987646, 2.11978261, -2.34205014, -0.87015947, 1.64119353, 0.55344866)
JOINT_LOW = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
JOINT_HIGH = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)

_Box = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Scene:
    """``blocks``: name -> size, in loading order. ``surfaces``: corners of the boxes in which blocks may start."""

    name: str
    blocks: dict[str, str]
    surfaces: dict[str, _Box]

    def place(self, block: str) -> slice:
        """Where the pose (position and Euler angles, 6 numbers) of a block stands in ``scene_obs`` (24)."""
        at = 6 + 6 * list(self.blocks).index(block)
        return slice(at, at + 6)


_LEFT, _MIDDLE, _RIGHT = (-0.32, -0.16), (-0.12, 0.06), (-0.05, 0.13)


def _surfaces(table: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> dict[str, _Box]:
    return {
        "table": ((table[0], -0.15, 0.46), (table[1], -0.03, 0.46)),
        "slider_left": ((left[0], 0.05, 0.46), (left[1], 0.12, 0.46)),
        "slider_right": ((right[0], 0.05, 0.46), (right[1], 0.12, 0.46)),
    }


BY_NAME = {
    scene.name: scene
    for scene in (
        Scene(
            "A",
            {"block_pink": "pink_small", "block_blue": "blue_big", "block_red": "red_middle"},
            _surfaces((-0.2, 0.35), _LEFT, _RIGHT),
        ),
        Scene(
            "B",
            {"block_red": "red_small", "block_blue": "blue_big", "block_pink": "pink_middle"},
            _surfaces((-0.35, 0.15), _MIDDLE, (0.15, 0.33)),
        ),
        Scene(
            "C",
            {"block_blue": "blue_small", "block_red": "red_big", "block_pink": "pink_middle"},
            _surfaces((0.0, 0.35), _MIDDLE, (0.15, 0.3)),
        ),
        Scene(
            "D",
            {"block_red": "red_middle", "block_blue": "blue_small", "block_pink": "pink_big"},
            _surfaces((0.0, 0.35), _LEFT, _RIGHT),
        ),
    )
}
