"""Which episodes an evaluation runs, with which evaluation-only controls: plain dicts that a worker understands.

Controls (each is run on the same starts as the evaluation itself, so that rows pair up):

``image-blank``              the policy sees a blank picture;
``image-other``              it sees the start of another episode of the same task: the next one of the list, the first
                             one after the last;
``image-shuffled``           its pictures are cut into patches, in an order that the episode's task and seed decide and
                             that stays for all its steps: colours stay, where things are goes;
``camera-moved``             all cameras are moved and turned a little in the simulator, as far as the benchmark's
                             ``camera_moves`` say and where to task and seed decide; those on the hand against the hand;
``instruction-swapped``      it is told the instruction of another task, see :func:`swap_pairs`. Success still means the
                             task itself;
``instruction-paraphrased``  it is told the same in other words, the benchmark's ``paraphrase``, each task of a chain.
"""

import re
from collections.abc import Sequence
from typing import Any

from vlm4vla.rollout import perturb
from vlm4vla.rollout.names import CONTROLS, IMAGE_OTHER, INSTRUCTION_PARAPHRASED, INSTRUCTION_SWAPPED
from vlm4vla.schemas import EvalConfig
from vlm4vla.types import Benchmark, EpisodeSpec, refuse

Job = dict[str, Any]


def chosen_tasks(tasks: Sequence[str], bench: Benchmark) -> tuple[str, ...]:
    """The named tasks (all of the benchmark when none is named); refuses unknown and repeated ones."""
    known = bench.tasks()
    for task in tasks:
        if task not in known:
            raise refuse(f"Unknown task {task!r} of {bench.id}", given=task, possible=known, todo="Use one of these.")
    if len(set(tasks)) < len(tasks):
        raise refuse(f"A task is listed twice: {', '.join(tasks)}", todo="List each task once.")
    return tuple(tasks) or known


def must_be_playable(tasks: Sequence[str], bench: Benchmark) -> None:
    """Refuse tasks whose files are not there before the first is played, where the benchmark can tell."""
    if hasattr(bench, "must_have_assets"):
        bench.must_have_assets(tasks)


def chosen_controls(config: EvalConfig) -> list[str | None]:
    """The controls in the order in which they run: none first, each once."""
    if not config.controls:
        raise refuse("No control is listed, so nothing would run", possible=["null", *CONTROLS], todo="List null.")
    plain: list[str | None] = [None] if None in config.controls else []
    return plain + [c for c in dict.fromkeys(config.controls) if c is not None]


def swap_pairs(tasks: Sequence[str]) -> dict[str, str]:
    """Task -> task whose instruction it gets under ``instruction-swapped``.

    The other task whose name, in words between dashes or underscores, shares the longest beginning with it (the first
    of the list among equals); where none shares any, the next of the list, the first one after the last. So opening
    and closing of one object swap, which only the instruction can tell apart. Refuses a single task.
    """
    if len(tasks) < 2:
        raise refuse(
            f"The control instruction-swapped was asked for with the tasks {list(tasks)}",
            possible="two or more tasks",
            todo="Add a task, or leave the control out.",
        )
    pairs: dict[str, str] = {}
    for place, task in enumerate(tasks):
        others = [other for other in tasks if other != task]
        best = max(others, key=lambda other: _shared(task, other))
        pairs[task] = best if _shared(task, best) else tasks[(place + 1) % len(tasks)]
    return pairs


def build(config: EvalConfig, bench: Benchmark, uri: str) -> list[Job]:
    """All jobs of the evaluation, controls outermost, in the order in which they are handed out.

    Keys: kind "rollout", id, episode and other (EpisodeSpec dicts; other is null but for image-other), control,
    instruction (what the policy is told, at first where the benchmark or a paraphrase goes on), policy (``uri``),
    execute, seed (of the policy's noise), video, assume_spec.
    """
    tasks = chosen_tasks(config.tasks, bench)
    controls = chosen_controls(config)
    perturb.must_offer(bench, controls)
    pairs = swap_pairs(tasks) if INSTRUCTION_SWAPPED in controls else {}

    def told(control: str | None, episode: EpisodeSpec) -> str:
        if control == INSTRUCTION_SWAPPED:
            return bench.instruction(pairs[episode.task])
        if control == INSTRUCTION_PARAPHRASED:
            return perturb.paraphrases(bench, episode)[episode.instruction]
        return episode.instruction

    return [
        {
            "kind": "rollout",
            "id": f"{control or 'none'}/{task}/{episode.index}",
            "episode": episode.to_dict(),
            "control": control,
            "other": other.to_dict() if other else None,
            "instruction": told(control, episode),
            "policy": uri,
            "execute": config.execute,
            "seed": config.seed,
            "video": place < config.videos_per_task,
            "assume_spec": config.assume_spec,
        }
        for control in controls
        for task in tasks
        for place, (episode, other) in enumerate(_starts(config, bench, control, task))
    ]


def sentences(every: Sequence[Job], bench: Benchmark) -> set[str]:
    """All that these jobs may tell a policy: a chain tells more than the sentence that it begins with."""
    found = {str(job["instruction"]) for job in every}
    chained = {job["control"]: job["episode"] for job in every if job["episode"]["task"] in perturb.chains(bench)}
    for control, episode in chained.items():
        if control == INSTRUCTION_PARAPHRASED:
            found |= {*perturb.paraphrases(bench, EpisodeSpec.from_dict(episode)).values()}
        elif control != INSTRUCTION_SWAPPED:
            found |= {bench.instruction(task) for task in bench.tasks() if task not in perturb.chains(bench)}
    return found


def _starts(
    config: EvalConfig, bench: Benchmark, control: str | None, task: str
) -> list[tuple[EpisodeSpec, EpisodeSpec | None]]:
    count = config.episodes if control is None else config.control_episodes or config.episodes
    if count > config.episodes:
        raise refuse(
            f"control_episodes is {count}, but only {config.episodes} episodes are run without a control",
            possible=f"1 to {config.episodes}: each episode with a control is compared with the same one without",
            todo="Lower control_episodes, or raise episodes.",
        )
    episodes = bench.episodes(config.split, task, config.episodes)
    if len(episodes) < config.episodes:
        raise refuse(
            f"{config.episodes} {config.split} episodes of {task!r} were asked for, {bench.id} has {len(episodes)}",
            possible=f"1 to {len(episodes)}",
            todo="Lower episodes, or leave the task out.",
        )
    if control != IMAGE_OTHER:
        return [(episode, None) for episode in episodes[:count]]
    if len(episodes) < 2:
        raise refuse(
            f"The control image-other was asked for with {len(episodes)} episode of {task!r}",
            possible="2 or more episodes: the picture of another one is shown",
            todo="Raise episodes, or leave the control out.",
        )
    return [(episodes[i], episodes[(i + 1) % len(episodes)]) for i in range(count)]


def _shared(a: str, b: str) -> int:
    """Number of words that two names have in common at their beginning."""
    length = 0
    for mine, theirs in zip(re.split("[-_]", a), re.split("[-_]", b), strict=False):
        if mine != theirs:
            break
        length += 1
    return length
