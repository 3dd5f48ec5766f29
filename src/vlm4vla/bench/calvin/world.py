"""The physics of one scene in a pybullet client of its own, without pictures; built anew for every start.

Source of behaviour: calvin_env @797142c (play_table_env, robot, mixed_ik, scene and its objects). Bullet's solver
depends on the order of loading and of calls, so both are the original's: states are equal to the bit.
Bullet keeps contacts across a reset to a state; hence a new world, so that a start depends on itself alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pybullet as p

from vlm4vla.bench.calvin import protocol
from vlm4vla.bench.calvin.oracle import BlockFacts, Facts
from vlm4vla.bench.calvin.scenes import (
    BLOCKS,
    BY_NAME,
    DOORS,
    JOINT_HIGH,
    JOINT_LOW,
    LIGHTS,
    ROBOT_BASE,
    ROBOT_JOINTS,
    SCALE,
    Array,
    Scene,
)

ARM, FINGERS, TCP = range(7), (9, 11), 15
_MOTOR_FORCE, _MOTOR_SPEED = 200.0, 2.0
_GRIPPER_FORCE, _GRIPPER_SPEED, _OPENING = 200.0, 1.0, 0.04
_DOOR_FORCE = 4.0
LIGHT_LINKS = {"lightbulb": "light_link", "led": "led_link"}


def names_of(body: int, client: int) -> tuple[dict[str, int], dict[str, int]]:
    """Joint name -> index, link name -> index (the base has -1)."""
    infos = [
        p.getJointInfo(body, i, physicsClientId=client) for i in range(p.getNumJoints(body, physicsClientId=client))
    ]
    base = p.getBodyInfo(body, physicsClientId=client)[0].decode()
    joints = {info[1].decode(): info[0] for info in infos}
    return joints, {base: -1} | {info[12].decode(): info[0] for info in infos}


def load_robot(data: Path, client: int) -> int:
    """The arm with the longer fingers and the white cylinder below its base. Fingers are coupled by a gear."""
    robot: int = p.loadURDF(
        str(data / "franka_panda/panda_longer_finger.urdf"),
        ROBOT_BASE,
        p.getQuaternionFromEuler((0, 0, 0)),
        useFixedBase=True,
        physicsClientId=client,
    )
    x, y, z = ROBOT_BASE
    shape = p.createVisualShape(
        p.GEOM_CYLINDER,
        rgbaColor=(1, 1, 1, 1),
        radius=0.13,
        length=z,
        visualFramePosition=(x - 0.05, y, z / 2),
        physicsClientId=client,
    )
    p.createMultiBody(baseVisualShapeIndex=shape, physicsClientId=client)
    origin = (0, 0, 0)
    gear = p.createConstraint(
        robot, FINGERS[0], robot, FINGERS[1], p.JOINT_GEAR, (1, 0, 0), origin, origin, physicsClientId=client
    )
    p.changeConstraint(gear, gearRatio=-1, erp=0.1, maxForce=50, physicsClientId=client)
    return robot


def load_block(data: Path, size: str, position: Any, quaternion: Any, client: int) -> int:
    path = str(data / f"blocks/block_{size}.urdf")
    body: int = p.loadURDF(path, position, quaternion, globalScaling=SCALE, physicsClientId=client)
    return body


def load_table(data: Path, scene: str, client: int) -> int:
    path = str(data / f"calvin_table_{scene}/urdf/calvin_table_{scene}.urdf")
    body: int = p.loadURDF(path, (0, 0, 0), (0, 0, 0, 1), globalScaling=SCALE, physicsClientId=client)
    return body


def load_plane(data: Path, client: int) -> None:
    p.loadURDF(str(data / "plane/plane.urdf"), physicsClientId=client)


class World:
    """One scene. ``build`` before anything else; ``lights`` holds what glows (read by the picture maker)."""

    def __init__(self, data: Path, forgets_led: bool) -> None:
        """``data``: folder of URDFs and meshes. ``forgets_led``: as calvin_env @1431a46, where a start with a glowing
        LED leaves the button thinking it is off, so that the first press changes nothing."""
        self._data, self._forgets = data, forgets_led
        self.client: int = p.connect(p.DIRECT)
        self.scene: Scene = BY_NAME["D"]

    def close(self) -> None:
        if self.client >= 0:
            p.disconnect(physicsClientId=self.client)
            self.client = -1

    def build(self, scene: str, robot_obs: Array, scene_obs: Array) -> None:
        """A new world of ``scene`` in the given state: robot_obs (15), scene_obs (24); one physics step is made."""
        client, self.scene = self.client, BY_NAME[scene]
        p.resetSimulation(physicsClientId=client)
        p.setPhysicsEngineParameter(deterministicOverlappingPairs=1, physicsClientId=client)
        p.setTimeStep(1.0 / protocol.PHYSICS_HZ, physicsClientId=client)
        p.resetSimulation(physicsClientId=client)
        p.setGravity(0, 0, -9.8, physicsClientId=client)
        self.robot = load_robot(self._data, client)
        dof = p.computeDofCount(self.robot, physicsClientId=client)
        rest = [*ROBOT_JOINTS, _OPENING, _OPENING]
        self._null_space = ([-7] * dof, [7] * dof, [7] * dof, rest)
        self.gripper_action = 1.0
        self._reset_robot(ROBOT_JOINTS, _OPENING)
        random = np.random.Generator(np.random.PCG64(0))  # where blocks lie while the rest is loaded
        self.blocks = {name: self._load_somewhere(size, random) for name, size in self.scene.blocks.items()}
        self._load_table()
        load_plane(self._data, client)
        self._reset_scene(np.asarray(scene_obs, np.float64))
        state = np.asarray(robot_obs, np.float64)
        self._reset_robot(state[7:14], state[6] / 2)
        p.stepSimulation(physicsClientId=client)

    def _load_somewhere(self, size: str, random: np.random.Generator) -> int:
        low, high = self.scene.surfaces[str(random.choice(list(self.scene.surfaces)))]
        position = random.uniform(low, high)
        turn = p.getQuaternionFromEuler(random.uniform([0, 0, -np.pi], [0, 0, np.pi]))
        return load_block(self._data, size, position, turn, self.client)

    def _load_table(self) -> None:
        client = self.client
        self.table = load_table(self._data, self.scene.name, client)
        self.joints, self.links = names_of(self.table, client)
        velocity = {"controlMode": p.VELOCITY_CONTROL, "force": _DOOR_FORCE, "physicsClientId": client}
        for name in DOORS:
            p.setJointMotorControl2(self.table, self.joints[name], **velocity)
        spring = {"controlMode": p.POSITION_CONTROL, "targetPosition": 0, "force": _DOOR_FORCE}
        p.setJointMotorControl2(self.table, self.joints["base__button"], **spring, physicsClientId=client)
        p.setJointMotorControl2(self.table, self.joints["base__switch"], **velocity)
        self._thresholds = {}
        for name in ("base__button", "base__switch"):
            low, high = p.getJointInfo(self.table, self.joints[name], physicsClientId=client)[8:10]
            self._thresholds[name] = (low + high) / 2
        self.lights = dict.fromkeys(LIGHTS, 0)
        self._button_was_pressed = self._pressed("base__button")

    def _reset_scene(self, scene_obs: Array) -> None:
        for name, value in zip((*DOORS, "base__button", "base__switch"), scene_obs[:4], strict=True):
            p.resetJointState(self.table, self.joints[name], value, physicsClientId=self.client)
        self.lights = {name: int(value != 0) for name, value in zip(LIGHTS, scene_obs[4:6], strict=True)}
        self._button_on = bool(self.lights["led"]) and not self._forgets
        self._switch_on = False
        for name, body in self.blocks.items():
            pose = scene_obs[self.scene.place(name)]
            turn = p.getQuaternionFromEuler(pose[3:])
            p.resetBasePositionAndOrientation(body, pose[:3], turn, physicsClientId=self.client)

    def _reset_robot(self, joints: Sequence[float] | Array, finger: float) -> None:
        client = self.client
        for i, angle in zip(ARM, joints, strict=True):
            p.resetJointState(self.robot, i, angle, physicsClientId=client)
            self._aim(i, angle, _MOTOR_FORCE, _MOTOR_SPEED)
        for i in FINGERS:
            p.resetJointState(self.robot, i, finger, physicsClientId=client)
            self._aim(i, finger, _GRIPPER_FORCE, _GRIPPER_SPEED)
        position, turn = self._tcp()
        self.target_position, self.target_angles = np.array(position), np.array(turn)

    def _aim(self, joint: int, value: float, force: float, speed: float) -> None:
        p.setJointMotorControl2(
            self.robot,
            joint,
            p.POSITION_CONTROL,
            targetPosition=value,
            force=force,
            maxVelocity=speed,
            physicsClientId=self.client,
        )

    def _tcp(self) -> tuple[Any, Any]:
        position, turn = p.getLinkState(self.robot, TCP, physicsClientId=self.client)[:2]
        return position, p.getEulerFromQuaternion(turn)

    def step_relative(self, action: Array) -> None:
        """One control step. ``action`` (7): units of 0.02 m and 0.05 rad added to the *target* pose, gripper +-1."""
        action = np.asarray(action, np.float64)
        self.target_position = self.target_position + action[:3] * protocol.POSITION_UNIT
        self.target_angles = self.target_angles + action[3:6] * protocol.ANGLE_UNIT
        self._act(self.target_position, self.target_angles, float(action[6]))

    def step_absolute(self, action: Array) -> None:
        """One control step to a pose: ``action`` (7) is position in metres, Euler angles in radians, gripper."""
        action = np.asarray(action, np.float64)
        self._act(action[:3], action[3:6], float(action[6]))

    def _act(self, position: Array, angles: Array, gripper: float) -> None:
        if gripper not in (-1.0, 1.0):
            raise ValueError(f"The gripper takes +1 (open) or -1 (close), not {gripper}.")
        client, self.gripper_action = self.client, gripper
        turn = p.getQuaternionFromEuler(angles)
        solution = p.calculateInverseKinematics(
            self.robot, TCP, position, turn, *self._null_space, physicsClientId=client
        )
        for i, angle in zip(ARM, np.clip(solution[:7], JOINT_LOW, JOINT_HIGH), strict=True):
            self._aim(i, angle, _MOTOR_FORCE, _MOTOR_SPEED)
        opening, force = (_OPENING, _GRIPPER_FORCE / 100) if gripper > 0 else (0.0, _GRIPPER_FORCE)
        for i in FINGERS:
            self._aim(i, opening, force, _GRIPPER_SPEED)
        for _ in range(protocol.PHYSICS_HZ // protocol.CONTROL_HZ):
            p.stepSimulation(physicsClientId=client)
        self._switch_lights()

    def _switch_lights(self) -> None:
        """The button toggles the LED on being pressed; the lever's position is the bulb's, once it has been moved."""
        pressed = self._pressed("base__button")
        if pressed and not self._button_was_pressed:
            self._button_on = not self._button_on
            self.lights["led"] = int(self._button_on)
        self._button_was_pressed = pressed
        switched = self._pressed("base__switch")
        if switched != self._switch_on:
            self._switch_on = switched
            self.lights["lightbulb"] = int(switched)

    def _pressed(self, joint: str) -> bool:
        return bool(self.joint(joint) > self._thresholds[joint])

    def joint(self, name: str) -> float:
        """Position of a joint of the table, in metres."""
        return float(p.getJointState(self.table, self.joints[name], physicsClientId=self.client)[0])

    def robot_obs(self) -> Array:
        """(15): tool position 0:3 and Euler angles 3:6, opening 6, joints 7:14, last gripper action 14."""
        position, turn = self._tcp()
        first, second = (p.getJointState(self.robot, i, physicsClientId=self.client)[0] for i in FINGERS)
        arm = [p.getJointState(self.robot, i, physicsClientId=self.client)[0] for i in ARM]
        return np.array([*position, *turn, first + second, *arm, self.gripper_action])

    def scene_obs(self) -> Array:
        """(24): slider, drawer, button, switch, bulb, LED; then 6 numbers a block in the scene's order."""
        joints = [self.joint(name) for name in (*DOORS, "base__button", "base__switch")]
        poses: list[float] = []
        for body in self.blocks.values():
            position, turn = p.getBasePositionAndOrientation(body, physicsClientId=self.client)
            poses += [*position, *p.getEulerFromQuaternion(turn)]
        return np.array([*joints, *(float(self.lights[name]) for name in LIGHTS), *poses])

    def velocities(self) -> Array:
        """Everything that moves and is not in the two observations, flat: for bit-equality checks."""
        bodies = [(self.robot, (*ARM, *FINGERS)), (self.table, tuple(self.joints.values()))]
        parts = [p.getJointState(b, i, physicsClientId=self.client)[1] for b, joints in bodies for i in joints]
        for body in self.blocks.values():
            parts += [v for vector in p.getBaseVelocity(body, physicsClientId=self.client) for v in vector]
        return np.array(parts)

    def facts(self) -> Facts:
        """What the task rules look at."""
        client = self.client
        blocks = {}
        for name in BLOCKS:
            body = self.blocks[name]
            position, turn = p.getBasePositionAndOrientation(body, physicsClientId=client)
            linear, angular = p.getBaseVelocity(body, physicsClientId=client)
            touched = p.getContactPoints(bodyA=body, physicsClientId=client)
            speed = max(map(abs, (*linear, *angular)))
            contacts = frozenset((c[2], c[4]) for c in touched)
            blocks[name] = BlockFacts(body, np.array(position), np.array(turn), speed, contacts)
        touched = p.getContactPoints(bodyA=self.robot, physicsClientId=client)
        return Facts(
            robot=self.robot,
            table=self.table,
            links=self.links,
            blocks=blocks,
            doors={name: self.joint(name) for name in DOORS},
            lights=dict(self.lights),
            touched_by_robot=frozenset(c[2] for c in touched),
        )
