"""Where things of a scene are and how large: what a scripted expert may know and a policy may not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.bench.libero.sim import PandaEnv

import mujoco  # isort: skip

Points = npt.NDArray[np.float64]
_BOX, _MESH = mujoco.mjtGeom.mjGEOM_BOX.value, mujoco.mjtGeom.mjGEOM_MESH.value
_LATTICE = np.array([[x, y, z] for x in np.linspace(-1, 1, 7) for y in np.linspace(-1, 1, 7) for z in (-1, 0, 1)])
_COLLIDES = 0  # robosuite's group of collision shapes


@dataclass(frozen=True)
class Extent:
    """World points (N, 3) on the collision shapes of a thing."""

    points: Points

    @property
    def bottom(self) -> float:
        return float(self.points[:, 2].min())

    @property
    def top(self) -> float:
        return float(self.points[:, 2].max())

    @property
    def middle(self) -> Points:
        """Middle (2,) of the bounding box seen from above."""
        flat = self.points[:, :2]
        return np.asarray((flat.min(0) + flat.max(0)) / 2)

    def width(self, angle: float) -> tuple[float, float]:
        """(width, middle) along the horizontal direction ``angle``."""
        along = self.points[:, :2] @ np.array([np.cos(angle), np.sin(angle)])
        return float(along.max() - along.min()), float((along.max() + along.min()) / 2)


def body_geoms(env: PandaEnv, body: int) -> list[int]:
    model, family = env.model, {body}
    for child in range(model.nbody):
        if model.body_parentid[child] in family:
            family.add(child)
    return [g for g in range(model.ngeom) if model.geom_bodyid[g] in family and model.geom_group[g] == _COLLIDES]


def geoms(env: PandaEnv, name: str) -> list[int]:
    """Collision geoms of an object or fixture, by the simulator's name."""
    return body_geoms(env, env.sim.obj_body_id[name])


def extent(env: PandaEnv, which: list[int]) -> Extent:
    return Extent(np.concatenate([_points(env, g) for g in which]))


def others(env: PandaEnv, name: str) -> Points:
    """Points (N, 3) on everything but ``name``, the table and the robot."""
    names = [n for n in (*env.sim.objects_dict, *env.sim.fixtures_dict) if n != name and n in env.sim.obj_body_id]
    found = [extent(env, which).points for n in names if (which := geoms(env, n))]
    return np.concatenate(found) if found else np.empty((0, 3))


def touches(env: PandaEnv, mine: list[int], ignored: set[int]) -> bool:
    """Whether one of ``mine`` touches a geom that is neither of them nor ``ignored``."""
    own = set(mine)
    for contact in env.data.contact[: env.data.ncon]:
        a, b = int(contact.geom1), int(contact.geom2)
        if (a in own) != (b in own) and (b if a in own else a) not in ignored:
            return True
    return False


def robot_geoms(env: PandaEnv) -> set[int]:
    names = ("robot0_base", "gripper0_right_gripper", "mount0_base")
    model = env.model
    bodies = [b for b in range(model.nbody) if model.body(b).name in names]
    return {g for body in bodies for g in body_geoms(env, body)}


def _points(env: PandaEnv, geom: int) -> Points:
    model, data = env.model, env.data
    kind: Any = model.geom_type[geom]
    if kind == _MESH:
        mesh = model.geom_dataid[geom]
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        local = model.mesh_vert[start : start + count]
    elif kind == _BOX:
        local = _LATTICE * model.geom_size[geom]
    else:  # round shapes: their bounding box
        local = _LATTICE * model.geom_aabb[geom][3:] + model.geom_aabb[geom][:3]
    return np.asarray(local @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom])
