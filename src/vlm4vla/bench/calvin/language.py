"""What the robot is told, read from the assets: one sentence a task in the evaluation, paraphrases in training."""

import re
from functools import cache

from vlm4vla.bench import assets
from vlm4vla.bench.calvin import sequences
from vlm4vla.types import refuse

THINGS = frozenset(
    (
        *("red", "blue", "pink", "block", "drawer", "cabinet", "sliding", "door", "handle"),
        *("switch", "button", "light", "bulb", "led", "left", "right", "on", "off"),
    )
)
"""Words of the evaluation's sentences that a paraphrase keeps: things, colours, sides, and which way a light goes."""
FOLDER = "calvin_models/conf/annotations"
EVALUATION, TRAINING = f"{FOLDER}/new_playtable_validation.yaml", f"{FOLDER}/new_playtable.yaml"


@cache
def sentences() -> dict[str, str]:
    """Task -> the sentence of the official evaluation (the only one of the file)."""
    return {task: told[0] for task, told in _read(EVALUATION).items()}


@cache
def paraphrases() -> dict[str, tuple[str, ...]]:
    """Task -> the sentences that the official training data are annotated with."""
    return _read(TRAINING)


@cache
def other_words() -> dict[str, str]:
    """Task -> the first sentence of the training annotations that keeps all ``THINGS`` of the evaluation's sentence."""
    told = sentences()
    return {
        task: next(other for other in found if other != told[task] and THINGS & _words(told[task]) <= _words(other))
        for task, found in paraphrases().items()
    }


def _words(sentence: str) -> set[str]:
    return set(re.findall(r"\w+", sentence))


def _read(name: str) -> dict[str, tuple[str, ...]]:
    """``task: ["sentence", ...]`` in YAML, which simulators' environments cannot read with a library."""
    text = (assets.folder("calvin") / name).read_text()
    entries = re.finditer(r"^(\w+): *\[([^\]]*)\]", text, re.MULTILINE)
    found = {m[1]: tuple(re.findall(r'"([^"]+)"', m[2])) for m in entries}
    if set(found) != set(sequences.TASKS) or not all(found.values()):
        raise refuse(
            f"{name} has sentences for {len(found)} tasks",
            possible=f"at least one sentence for each of the {len(sequences.TASKS)} tasks",
            todo="Restore the file: `vlm4vla bench install calvin --assets FOLDER`.",
        )
    return found
