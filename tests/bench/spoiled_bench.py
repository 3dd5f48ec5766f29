"""The MetaWorld benchmark with the fault that the check must catch: mujoco's own renderers, dropped instead of closed.

When Python collects a dropped one, its OpenGL objects are freed in whichever context is current, which is that of the
live renderer. Reading back then fails without an error, and the array that is returned holds leftovers of memory:
pictures of other tasks, mirrored pictures, noise. A fresh process renders its first picture right.
"""

import gc

import numpy as np

from vlm4vla.bench.metaworld.env import Benchmark as Right
from vlm4vla.types import Observation

live = []


class Benchmark(Right):
    def make(self, task):
        env = super().make(task)
        env._observe = lambda: _observe(env)
        return env


def _observe(env):
    import mujoco

    renderer = mujoco.Renderer(env._sim.model, 96, 96)
    live.append(renderer)
    renderer.update_scene(env._sim.data, camera="corner2")
    renderer.render()
    del live[:-1]  # the renderers of earlier pictures
    gc.collect()
    picture = np.ascontiguousarray(renderer.render()[::-1, ::-1])
    return Observation({"corner2": picture}, "", env.privileged[:4].astype(np.float32))
