"""ManiSkill 3 and what it needs, imported quietly, with our assets and driver, and without a download.

torch is the simulator's array library here, in the simulator's own environment; nothing of it leaves this folder.
"""

import hashlib
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.bench import assets
from vlm4vla.bench.simpler import (
    graphics,  # noqa: F401 (sets the Vulkan driver before sapien loads)
    protocol,
)

_BENCH = "simpler"
FOLDER = assets.folder(_BENCH)
"""Assets; ``data`` in it is what ManiSkill calls its asset folder. Refused where they are missing."""

os.environ["MS_ASSET_DIR"] = str(FOLDER)
os.environ.setdefault("MPLCONFIGDIR", str(Path(sys.prefix) / "matplotlib"))  # wants a folder; nothing here uses it
warnings.filterwarnings("ignore", message="Failed to find system libvulkan")  # sapien brings one

torch: Any = importlib.import_module("torch")
torch.set_num_threads(1)  # the tensors have a few numbers each
_scenes: Any = importlib.import_module("mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.put_on_in_scene")
_twin: Any = importlib.import_module("mani_skill.envs.tasks.digital_twins.base_env").BaseDigitalTwinEnv
sapien: Any = importlib.import_module("sapien")
logging.getLogger("mani_skill ").setLevel(logging.ERROR)  # the name ends with a blank

_PICTURES = "rgb+segmentation"


def build(env: str) -> Any:
    """The package's environment of that class name, which draws nothing unless it is told to.

    Its base class keeps two things for all environments of a process: which objects the background picture leaves
    visible, and the picture. Objects of an earlier task then stay on the list, and their numbers are those of other
    things in the next one: a grey patch in the basket. Both are emptied before each environment is made.
    """
    _twin._objects_to_remove_from_greenscreen = []
    _twin._rgb_overlay_images = {}
    made: Any = _undrawn(getattr(_scenes, env))
    return made(obs_mode=_PICTURES, num_envs=1, sim_backend="cpu", render_backend="cpu")


def _undrawn(scene: Any) -> Any:
    """That class, but it draws nothing by itself, and the robot is away while the objects settle (as published)."""

    def settle(self: Any, env_idx: Any, options: Any) -> None:
        self.agent.robot.set_pose(sapien.Pose(list(protocol.AWAY), [0, 0, 0, 1]))
        scene._initialize_episode(self, env_idx, options)

    return type("Undrawn", (scene,), {"get_obs": lambda *_, **__: {}, "_initialize_episode": settle})


def place(sim: Any, places: Sequence[npt.ArrayLike], turns: Sequence[npt.ArrayLike]) -> None:
    """Begin an episode with source and target at these positions and quaternions, which then settle.

    The scene is built anew: PhysX remembers contacts and the order in which things moved, and neither moving things
    far away, nor putting them to sleep, nor taking them out of the scene and back makes it forget (the same start then
    differed in the last digits, and sometimes in which way the eggplant rolled). Costs 0.2 s.
    """
    sim.xyz_configs = torch.tensor(np.stack(places)[None], dtype=torch.float32)
    sim.quat_configs = torch.tensor(np.stack(turns)[None], dtype=torch.float32)
    sim.reset(seed=0, options={"episode_id": torch.tensor([0]), "reconfigure": True})


def describe_assets() -> str:
    """Whether the files that are known to be hard to come by are the originals, by their git hashes."""
    plan = json.loads((Path(__file__).parent / "assets.json").read_text())
    known: dict[str, str] = plan["git_ids_of_often_replaced_files"]
    replaced = [path for path, git_id in known.items() if _git_id(FOLDER / path) != git_id]
    if not replaced:
        return "original"
    return f"{len(replaced)} stand-ins ({', '.join(map(_short, replaced))}): not comparable with published results"


def _short(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def _git_id(file: Path) -> str:
    content = file.read_bytes() if file.is_file() else b""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
