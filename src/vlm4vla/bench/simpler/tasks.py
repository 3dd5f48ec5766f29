"""The four tasks as data: what lies where in the 24 published episodes, and what the robot is told.

Positions in metres in the world, quaternions (w, x, y, z). Tables: the published ones; heights and the eggplant's
orientations are the settled ones of ManiSkill 3.0.1, which places objects where the original drops them.
"""

import math
from dataclasses import dataclass
from itertools import permutations, product

from vlm4vla.bench.simpler import protocol

_FLAT = (1.0, 0.0, 0.0, 0.0)
TABLE_CENTRE, SINK_CENTRE = (-0.16, 0.0), (-0.105, 0.206)
_BASKET = (-0.125, 0.025, 1.0)
_CORNERS = tuple(product((-1, 1), (-1, 1)))


def _yaw(angle: float) -> tuple[float, float, float, float]:
    return (math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2))


@dataclass(frozen=True)
class Task:
    """``places``: (source xyz, target xyz) by episode // len(turns); ``turns``: the source's turn by the remainder.

    ``sizes``: bounding boxes of source and target (m), as the success rule takes them. ``apart``: least distance of
    random objects from each other (m).
    """

    name: str
    env: str
    instruction: str
    source: str
    target: str
    places: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    turns: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[float, ...], tuple[float, ...]]
    apart: float
    in_sink: bool = False
    touches_nothing_else: bool = False

    @property
    def steps(self) -> int:
        return protocol.STEPS_IN_SINK if self.in_sink else protocol.STEPS

    @property
    def above(self) -> float:
        return protocol.ABOVE_IN_SINK_M if self.in_sink else protocol.ABOVE_M


def _pairs(half: float, source_z: float, target_z: float) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """All ordered pairs of the corners of a square of 2 ``half`` metres on the table."""
    corners = [(TABLE_CENTRE[0] + half * x, TABLE_CENTRE[1] + half * y) for x, y in _CORNERS]
    return [((*a, source_z), (*b, target_z)) for a, b in permutations(corners, 2)]


TASKS = {
    task.name: task
    for task in (
        Task(
            name="put-spoon-on-towel",
            env="PutSpoonOnTableClothInScene",
            instruction="put the spoon on the towel",
            source="bridge_spoon_generated_modified",
            target="table_cloth_generated_shorter",
            places=tuple(_pairs(0.075, 0.88, 0.875)),
            turns=(_FLAT, _yaw(math.pi / 2)),
            sizes=((0.14, 0.0346, 0.026042), (0.1, 0.1, 0.01)),
            apart=0.14,
        ),
        Task(
            name="put-carrot-on-plate",
            env="PutCarrotOnPlateInScene",
            instruction="put carrot on plate",
            source="bridge_carrot_generated_modified",
            target="bridge_plate_objaverse_larger",
            places=tuple(_pairs(0.075, 0.887529, 0.869532)),
            turns=(_yaw(math.pi), _yaw(-math.pi / 2)),
            sizes=((0.115, 0.032, 0.038), (0.11, 0.11, 0.006)),
            apart=0.13,
            touches_nothing_else=True,
        ),
        Task(
            name="stack-green-on-yellow",
            env="StackGreenCubeOnYellowCubeBakedTexInScene",
            instruction="stack the green block on the yellow block",
            source="baked_green_cube_3cm",
            target="baked_yellow_cube_3cm",
            places=tuple(_pairs(0.05, 0.887529, 0.887529) + _pairs(0.1, 0.887529, 0.887529)),
            turns=(_FLAT,),
            sizes=((0.03, 0.03, 0.03), (0.03, 0.03, 0.03)),
            apart=0.08,
            touches_nothing_else=True,
        ),
        Task(
            name="put-eggplant-in-basket",
            env="PutEggplantInBasketScene",
            instruction="put eggplant into yellow basket",
            source="eggplant",
            target="dummy_sink_target_plane",
            places=tuple(
                ((SINK_CENTRE[0] + x, SINK_CENTRE[1] + y, 0.933), _BASKET)
                for x, y in product((-0.01, 0.01), (-0.015, -0.005, 0.005, 0.015))
            ),
            # Published: dropped with a yaw of 0, 45 and -45 degrees. ManiSkill's table has eggplants at rest and counts
            # clockwise: what it calls 0, -45 and 45 degrees has its long side at -14, 16 and -32 degrees.
            turns=(
                (0.559342, 0.817133, -0.138906, -0.0116353),
                (0.543729, 0.82549, 0.0746101, 0.131747),
                (0.543029, 0.789388, -0.267736, -0.101503),
            ),
            sizes=((0.0783, 0.0374, 0.038), (0.13, 0.08, 0.002)),
            apart=0.0,
            in_sink=True,
        ),
    )
}
