"""How other tools evaluate, as versions of this benchmark: each has an id of its own, and no report pools two ids.

Only what an episode fixes by itself can be had here. Tools that seed once per task let a stove or cabinet stand where
the episodes before have left numpy's global generator, so that a result depends on their order: refused, with a
sentence. README.md has the table of what they do.
"""

import os
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from vlm4vla.bench.libero import protocol
from vlm4vla.types import refuse

SETTING = "VLM4VLA_LIBERO_PROTOCOL"
"""Name of the environment variable that chooses one of ``VARIANTS``."""


@dataclass(frozen=True)
class Variant:
    """What differs between protocols. ``settle_gripper`` is the simulator's number; 0 leaves the fingers half open."""

    name: str
    step_limits: dict[str, int]
    settle_steps: int = protocol.SETTLE_STEPS
    settle_gripper: float = protocol.OPEN
    picture: int = protocol.PICTURE

    @property
    def id(self) -> str:
        return protocol.ID + (f"+{self.name}" if self.name else "")


OURS: Final = Variant("", protocol.STEP_LIMITS)
# lerobot @7427f31, src/lerobot/envs/libero.py: more steps for one suite. Its picture is turned by its processor.
_LEROBOT = replace(OURS, name="lerobot", step_limits=protocol.STEP_LIMITS | {"libero_spatial": 280})
# LIBERO @8f1084e, libero/lifelong/metric.py and configs/eval/default.yaml: zeros while settling. Its pictures are
# upside down, as OpenGL has them; here they are upright in every variant, since data readers and policies expect that.
_ORIGINAL = Variant("original", dict.fromkeys(protocol.STEP_LIMITS, 600), 5, 0.0, 128)

VARIANTS: Final = MappingProxyType({variant.name: variant for variant in (OURS, _LEROBOT, _ORIGINAL)})
# Their seeds: openvla and openvla-oft ``env.seed(0)``, openpi ``env.seed(args.seed)``, which is 7 unless told.
_SEED_ONCE: Final = MappingProxyType({"openvla": 0, "openvla-oft": 0, "openpi": 7})


def chosen() -> Variant:
    """The variant that the environment variable names; ours without one."""
    name = os.environ.get(SETTING, "")
    if name in _SEED_ONCE:
        raise refuse(
            f"The protocol of {name} cannot be reproduced start by start: it seeds the simulator once per task, with "
            f"{_SEED_ONCE[name]}, so that where fixtures stand depends on the episodes before",
            given=name,
            possible=f"no {SETTING}: the same steps, settling, cameras and turn, with fixtures where a seed of "
            f"{protocol.EVAL_SEED} puts them at every start",
            todo=f"Do not set {SETTING}.",
        )
    if name not in VARIANTS:
        raise refuse(
            f"Unknown protocol {name!r} in {SETTING}",
            given=name,
            possible=[known for known in VARIANTS if known],
            todo=f"Set {SETTING} to one of these, or do not set it.",
        )
    return VARIANTS[name]
