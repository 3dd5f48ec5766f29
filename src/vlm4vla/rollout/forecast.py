"""What a perfect imitator could reach: the expert acts through the channel that a policy has. numpy and stdlib only.

A policy sees the world, emits a chunk of normalised actions, and looks again after ``execute`` of them. Its labels
were the expert's actions, normalised and cut. The imitator here knows the expert by heart: asked at a step, it
answers with the ``chunk`` actions that the expert would take from exactly this state, each cut as a label is. The
forecast is made in a fork of this process, where the simulator goes on with the uncut actions; the world here then
executes the cut ones.
"""

import os
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.data.normalize import Normalizer
from vlm4vla.processes import die_with_parent
from vlm4vla.types import Benchmark, Env, EpisodeSpec, Expert, RunFailed, Vector, step_limit_of


def play(job: Mapping[str, Any], bench: Benchmark, env: Env) -> dict[str, Any]:
    """One episode. Keys of ``job``: episode, chunk, execute, normalizer (its ``to_dict``; null: nothing is cut)."""
    episode, execute = EpisodeSpec.from_dict(job["episode"]), int(job["execute"])
    normalizer = None if job["normalizer"] is None else Normalizer.from_dict(job["normalizer"])
    assert 1 <= execute <= job["chunk"]
    expert = bench.expert(env)
    env.look_at([])  # nobody looks, and no picture is drawn in a fork
    result = env.reset(episode, render=False)
    expert.reset(episode)
    limit, step = step_limit_of(bench, episode.task), 0
    while not (result.success or result.over) and step < limit:
        # One action is no forecast: it is what the expert does below.
        chunk = None if execute == 1 else _forecast(env, expert, execute)
        for place in range(execute):
            own = expert.act()  # also keeps the script in step with the world
            action = own if chunk is None else chunk[place]
            solved = result.completed
            result = env.step(action if normalizer is None else normalizer.inverse(normalizer.normalize(action)), False)
            step += 1
            if result.success or result.over or step >= limit or result.completed != solved:
                break
    return {"success": result.success, "steps": step, "completed": result.completed}


def _forecast(env: Env, expert: Expert, steps: int) -> npt.NDArray[np.float32]:
    """(steps, A): what the expert would do from here on, tried in a child process that is thrown away."""
    read, write = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:  # nothing may leave this branch: the parent's files, its channel and its log are shared
        status = 1
        try:
            die_with_parent(parent)
            os.close(read)
            os.write(write, _acted(env, expert, steps).tobytes())
            status = 0
        except BaseException:  # noqa: BLE001 (whatever it is, it ends here, and the log is the place for it)
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RunFailed("The expert's forecast failed in its child process; the worker's log has its words.")
    return np.frombuffer(told, np.float32).reshape(steps, -1)


def _acted(env: Env, expert: Expert, steps: int) -> npt.NDArray[np.float32]:
    actions: list[Vector] = []
    over = False
    for _ in range(steps):
        actions.append(actions[-1] if over else expert.act())
        over = over or env.step(actions[-1], False).over
    return np.stack(actions).astype(np.float32)
