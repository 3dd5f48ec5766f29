"""Two protocols of resolution. *native*: each VLM sees what its settings say; the counts are shown once it has run.
*token-matched*: all arms spend about the same number of image tokens on a sample, or the audit fails.

Tokens are counted before anything runs, by the VLM's own processor on blank pictures: the modules stand on the meta
device, no weights are read.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np

from vlm4vla.backbones import loading
from vlm4vla.backbones.processor import Processor
from vlm4vla.records import RunRecord
from vlm4vla.schemas import BackboneConfig, PolicyConfig, StudyConfig
from vlm4vla.study import cells
from vlm4vla.study.audit_line import Line
from vlm4vla.types import UserError, refuse

MATCHED = 1.25
"""The most image tokens of an arm over the fewest of another."""
LARGEST = 1024
"""Side of the largest square that is proposed."""
SETTING = "effective.image_tokens"


def lines(study: StudyConfig, trained: Mapping[str, RunRecord]) -> Iterator[Line]:
    """One line, image tokens per sample, where the study is token-matched; ``trained``: row name -> record."""
    if study.resolution == "native":
        return
    policies = {arm: cells.begun(study, cells.recipe(study, arm)).policy for arm in study.arms}
    reported = {arm: settings.reported.get("image_tokens") for arm, settings in study.arms.items()}
    for arm, said in reported.items():
        if said is not None and (not isinstance(said, int) or said < 1):
            raise refuse(
                f"Arm {arm!r} reports {said!r} image tokens",
                possible="a whole number above 0, where a study is token-matched",
                todo="Write the number of image tokens of one sample.",
            )
    counts = {arm: reported[arm] or image_tokens(policy) for arm, policy in policies.items()}
    broken: dict[str, str] = {}
    if max(counts.values()) > MATCHED * min(counts.values()):
        told = _proposals(counts, {arm: policies[arm] for arm in counts if reported[arm] is None})
        broken = {cells.row_name(study, arm, study.seeds[0]): text for arm, text in told.items()}
    rows = {cells.row_name(study, arm, seed): counts[arm] for arm in study.arms for seed in study.seeds}
    for name, record in trained.items():
        saw = record.facts.get("image_tokens")
        if saw is not None and saw != rows[name]:
            broken[name] = f"its settings come to {rows[name]} image tokens, its run saw {saw}"
    yield Line(SETTING, rows, broken=broken, excuse="within 25 % of each other: the study is token-matched")


def image_tokens(policy: PolicyConfig) -> int:
    """Image tokens of one sample: of all cameras, and of all pictures that the policy looks back on."""
    return _count(_processor(policy.backbone), len(policy.cameras) * policy.window)


def reachable(policy: PolicyConfig) -> dict[int, int]:
    """Every ``image_size`` up to :data:`LARGEST` that the VLM's encoder takes -> image tokens of one sample."""
    own = _processor(policy.backbone)
    patch = own.model_config.vision_config.patch_size
    step = int(patch[0] if isinstance(patch, list | tuple) else patch)
    found: dict[int, int] = {}
    for size in sorted({policy.backbone.image_size, *range(step, LARGEST + 1, step)}):
        config = policy.backbone.model_copy(update={"image_size": size})
        try:
            other = type(own)(own.tokenizer, config, own.model_config, own.queries)
        except UserError:  # a size that this encoder does not take
            continue
        found[size] = _count(other, len(policy.cameras) * policy.window)
    return found


def _proposals(counts: Mapping[str, int], policies: Mapping[str, PolicyConfig]) -> dict[str, str]:
    """Arm -> its count, and the size that would bring it nearest to the others; a reported arm stays as it is."""
    fixed = {arm: {0: count} for arm, count in counts.items() if arm not in policies}
    sizes = {arm: reachable(policy) for arm, policy in policies.items()} | fixed
    targets = sorted({count for found in sizes.values() for count in found.values()})
    choices = [{arm: _nearest(found, target) for arm, found in sizes.items()} for target in targets]

    def worth(chosen: Mapping[str, int]) -> tuple[float, float]:
        """How far apart the arms are, then how far all are from what they have; near enough is near enough."""
        new = {arm: sizes[arm][size] for arm, size in chosen.items()}
        change = sum(abs(math.log(new[arm] / counts[arm])) for arm in new)
        return max(MATCHED, max(new.values()) / min(new.values())), change

    best = min(choices, key=worth)
    enough = worth(best)[0] == MATCHED
    told: dict[str, str] = {}
    for arm, size in best.items():
        proposed = f"image_size {size} would give {sizes[arm][size]}" if arm in policies else "reported by others"
        told[arm] = f"{counts[arm]} image tokens, {proposed}" + ("" if enough else ", and no sizes are near enough")
    return told


def _nearest(found: Mapping[int, int], target: int) -> int:
    return min(found, key=lambda size: abs(math.log(found[size] / target)))


@cache
def _processor(config: BackboneConfig) -> Processor:
    return loading.load(config, 1, seed=0, device="meta").processor


def _count(processor: Processor, pictures: int) -> int:
    side = processor.config.image_size
    return sum(processor.pictures([np.zeros((side, side, 3), dtype=np.uint8)] * pictures)[1])
