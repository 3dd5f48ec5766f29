"""MetaWorld's own scripted policies, in the benchmark's action spec."""

import warnings
from typing import Any

import numpy as np

from vlm4vla.bench.metaworld.sim import SawyerEnv
from vlm4vla.types import EpisodeSpec, Vector

from metaworld.policies import ENV_POLICY_MAP  # isort: skip


class ScriptedExpert:
    """Knows object and goal positions. Arm actions are clipped to the limits; any positive effort closes."""

    def __init__(self, env: SawyerEnv) -> None:
        # Said at nearly every step; the clipping it warns of is part of the benchmark.
        warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
        self._env = env
        self._policy: Any = None

    def reset(self, episode: EpisodeSpec) -> None:
        self._policy = ENV_POLICY_MAP[f"{episode.task}-v3"]()

    def act(self) -> Vector:
        assert self._policy is not None, "reset before act"
        native = np.asarray(self._policy.get_action(self._env.privileged), np.float32)
        action = np.clip(native, -1.0, 1.0)
        action[3] = -1.0 if native[3] > 0 else 1.0
        return action
