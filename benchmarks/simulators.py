"""Control steps per second of our loop, against the same loop drawing everything, and against the bare simulator.

    python benchmarks/simulators.py calvin [--rounds 5] [--steps 200]
    python benchmarks/simulators.py libero

Three loops take turns in one process of the simulator's environment, with the same start and the same actions (small,
random, so that nothing is solved):

``ours``   the product's rollout: the policy looks through one camera once per chunk;
``every``  the same rollout with both cameras drawn at every step;
``bare``   the simulator's own calls for the same physics and the same pictures, and nothing else.

Medians over rounds of CPU seconds, since the machine may be shared. The policy costs nothing here.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = {"calvin": 10, "libero": 8}
TASK = {
    "calvin": "open_drawer",
    "libero": "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket",
}


class Fixed:
    """A policy that costs nothing: it looks through ``cameras`` and plays a list of actions."""

    window = 1
    looks = True

    def __init__(self, actions: np.ndarray, chunk: int, cameras: frozenset[str]) -> None:
        self.actions, self.chunk, self.cameras, self.at = actions, chunk, cameras, 0

    def reset(self, _: Any) -> None:
        self.at = 0

    def ask(self, observation: Any) -> np.ndarray:
        assert set(observation.images) == set(self.cameras)
        chunk = self.actions[self.at : self.at + self.chunk]
        self.at += self.chunk
        return chunk


def bare_calvin(env: Any, episode: Any, actions: np.ndarray, chunk: int) -> Callable[[], None]:
    """pybullet alone: inverse kinematics, motors, eight physics steps; a picture of the static camera per chunk."""
    import pybullet as p

    from vlm4vla.bench.calvin import protocol, scenes, world
    from vlm4vla.bench.calvin.render import painter

    env.reset(episode, render=True)
    w, draws = env.world, painter(env._data)
    client, low, high = w.client, scenes.JOINT_LOW, scenes.JOINT_HIGH
    lens = p.computeProjectionMatrixFOV(
        protocol.STATIC_FIELD_OF_VIEW, 1.0, protocol.STATIC_NEAR, protocol.STATIC_FAR, physicsClientId=client
    )
    size = protocol.STATIC_PICTURE
    arm = {"force": world._MOTOR_FORCE, "maxVelocity": world._MOTOR_SPEED, "physicsClientId": client}
    fingers = {"force": world._GRIPPER_FORCE / 100, "maxVelocity": world._GRIPPER_SPEED, "physicsClientId": client}

    def run() -> None:
        position, angles = w.target_position, w.target_angles
        for step, action in enumerate(actions):
            if step % chunk == 0:
                p.getCameraImage(size, size, draws._static_view, lens, **draws._options)
            position = position + action[:3] * protocol.POSITION_UNIT
            angles = angles + action[3:6] * protocol.ANGLE_UNIT
            turn = p.getQuaternionFromEuler(angles)
            solution = p.calculateInverseKinematics(
                w.robot, world.TCP, position, turn, *w._null_space, physicsClientId=client
            )
            for i, angle in zip(world.ARM, np.clip(solution[:7], low, high), strict=True):
                p.setJointMotorControl2(w.robot, i, p.POSITION_CONTROL, targetPosition=angle, **arm)
            for i in world.FINGERS:
                p.setJointMotorControl2(w.robot, i, p.POSITION_CONTROL, targetPosition=world._OPENING, **fingers)
            for _ in range(protocol.PHYSICS_HZ // protocol.CONTROL_HZ):
                p.stepSimulation(physicsClientId=client)

    return run


def bare_libero(env: Any, episode: Any, actions: np.ndarray, chunk: int) -> Callable[[], None]:
    """robosuite's own step without observations, and one picture by MuJoCo's own calls per chunk."""
    from vlm4vla.bench.libero import protocol

    env.reset(episode, render=True)
    native = actions.astype(np.float64)
    name, camera = env.cameras[0].name, env.cameras[0]

    def run() -> None:
        for step, action in enumerate(native):
            if step % chunk == 0:
                env._maker.draw(env.model, env.data, protocol.CAMERAS[name], camera.height, camera.width)
            env.sim.step(action)

    return run


BARE = {"calvin": bare_calvin, "libero": bare_libero}


def inside(name: str, rounds: int, steps: int) -> dict[str, Any]:
    """In the simulator's environment: medians of CPU milliseconds per step, and memory."""
    from vlm4vla.rollout import episodes

    task, chunk = TASK[name], CHUNK[name]
    whole = importlib.import_module(f"vlm4vla.bench.{name}.env").Benchmark
    bench = type("Short", (whole,), {"step_limits": {task: steps}})()
    episode = bench.episodes("dev", task, 1)[0]
    env = bench.make(task)
    actions = np.random.default_rng(0).normal(0, 0.15, (steps + chunk, bench.action_spec.size)).astype(np.float32)
    actions[:, bench.action_spec.gripper] = 1.0
    job = {"episode": episode.to_dict(), "video": False, "control": None, "instruction": "", "other": None}
    first, everything = frozenset([bench.cameras[0].name]), frozenset(c.name for c in bench.cameras)
    times: dict[str, list[float]] = {"ours": [], "every": [], "bare": []}
    for number in range(rounds + 1):  # the first round warms up
        for loop in times:
            if loop == "bare":
                run = BARE[name](env, episode, actions[:steps], chunk)
                began = time.process_time()
                run()
                spent = time.process_time() - began
            else:
                execute = chunk if loop == "ours" else 1
                chooser = Fixed(actions, execute, first if loop == "ours" else everything)
                spent, played = timed(env, job | {"execute": execute}, bench, chooser, episodes.rollout)
                assert played["steps"] == steps and not played["success"], played
            if number:
                times[loop].append(1000 * spent / steps)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"milliseconds": {k: statistics.median(v) for k, v in times.items()}, "all": times, "peak_mib": peak / 1024}


def timed(env: Any, job: dict[str, Any], bench: Any, chooser: Any, rollout: Any) -> tuple[float, dict[str, Any]]:
    """CPU seconds of a rollout without those of building its start, which has nothing to do with control steps."""
    reset, spent = env.reset, 0.0

    def measured(*given: Any, **named: Any) -> Any:
        nonlocal spent
        began = time.process_time()
        result = reset(*given, **named)
        spent += time.process_time() - began
        return result

    env.reset = measured
    began = time.process_time()
    played = rollout(job, bench, env, chooser)
    total = time.process_time() - began
    env.reset = reset
    return total - spent, played


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(CHUNK))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        sys.path.insert(0, given.inside)
        print(json.dumps(inside(given.name, given.rounds, given.steps)))
        sys.stdout.flush()
        os._exit(0)
    from vlm4vla.bench import install

    words = [str(install.python_of(given.name)), "-I", __file__, given.name]
    words += ["--rounds", str(given.rounds), "--steps", str(given.steps), "--inside", str(install.link_folder())]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    ours, every, bare = (found["milliseconds"][loop] for loop in ("ours", "every", "bare"))
    print(f"{given.name}: CPU ms per control step: ours {ours:.2f}, every step drawn {every:.2f}, bare {bare:.2f}")
    print(f"  {every / ours:.1f} times as many steps as with both cameras at every step; {ours / bare:.2f} of bare")
    print(f"  peak memory {found['peak_mib']:.0f} MiB; rounds {json.dumps(found['all'])}")


if __name__ == "__main__":
    main()
