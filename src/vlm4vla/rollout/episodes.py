"""What a simulator worker does with one job on a live environment. Plain dicts in and out; numpy only."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.rollout import perturb
from vlm4vla.rollout.asking import Chooser
from vlm4vla.rollout.names import (
    CAMERA_MOVED,
    CONTROLS,
    IMAGE_BLANK,
    IMAGE_OTHER,
    IMAGE_SHUFFLED,
    INSTRUCTION_PARAPHRASED,
    INSTRUCTION_SWAPPED,
)
from vlm4vla.types import (
    Benchmark,
    Env,
    EpisodeSpec,
    Image,
    Observation,
    StepResult,
    Vector,
    refuse,
    step_limit_of,
    view_name,
)

STEP_LIMIT = "step_limit"
"""``failure`` of an episode that ran to the step limit without success."""
OVER = "over"
"""``failure`` of an episode that the benchmark ended earlier, such as a chain of subtasks at its first failed one."""
_MOVED_STEPS = 8  # of the expert, in ``moved``: the hand and its camera have left their place

Job = Mapping[str, Any]
Images = Mapping[str, Image]


class _Eyes:
    """What the policy sees and is told: the truth, or the control's substitute."""

    def __init__(self, job: Job, bench: Benchmark, env: Env) -> None:
        control: str | None = job["control"]
        episode = EpisodeSpec.from_dict(job["episode"])
        self._told: str | None = job["instruction"] if control == INSTRUCTION_SWAPPED else None
        self._words = perturb.paraphrases(bench, episode) if control == INSTRUCTION_PARAPHRASED else {}
        self._shuffles = episode if control == IMAGE_SHUFFLED else None
        self._fixed: Images | None = None
        if control == IMAGE_BLANK:
            self._fixed = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in bench.cameras}
        elif control == IMAGE_OTHER:
            seen = env.reset(EpisodeSpec.from_dict(job["other"])).observation
            assert seen is not None
            self._fixed = seen.images
        elif control is not None and control not in CONTROLS:
            raise refuse(
                f"Unknown control {control!r}",
                given=control,
                possible=["null", *CONTROLS],
                todo="Use one of these.",
            )

    def see(self, history: Sequence[Observation | None]) -> Observation:
        """The observation to ask the policy with: the last frame, and the pictures of those before it."""
        images: dict[str, Image] = {}
        for age, observation in enumerate(reversed(history)):
            assert observation is not None
            seen = observation.images if self._fixed is None else self._fixed
            if self._shuffles is not None:
                seen = {camera: perturb.shuffled(image, self._shuffles, camera) for camera, image in seen.items()}
            images |= {view_name(camera, age): image for camera, image in seen.items()}
        assert history[-1] is not None
        told = history[-1].instruction if self._told is None else self._told
        if self._words:
            told = self._words[told]
        return Observation(images, told, history[-1].state)


def rollout(job: Job, bench: Benchmark, env: Env, chooser: Chooser) -> dict[str, Any]:
    """One closed-loop episode; ends at the first success, at the step limit, or when the benchmark says it is over.

    Pictures are rendered for the frames that a policy sees when it is asked, of the cameras it looks through, and for
    every step of a video. When a
    subtask is solved, the rest of the chunk is dropped and the policy is asked anew, with a history that begins there.
    Cameras that a control moves are back in their places afterwards, however the episode ends.
    """
    perturb.must_offer(bench, [job["control"]])
    if job["control"] != CAMERA_MOVED:
        return _rollout(job, bench, env, chooser)
    perturb.move_cameras(env, perturb.camera_shifts(bench, EpisodeSpec.from_dict(job["episode"])))
    try:
        return _rollout(job, bench, env, chooser)
    finally:
        perturb.move_cameras(env, {})


def _rollout(job: Job, bench: Benchmark, env: Env, chooser: Chooser) -> dict[str, Any]:
    started = time.perf_counter()
    episode, execute, video = EpisodeSpec.from_dict(job["episode"]), int(job["execute"]), bool(job["video"])
    assert execute >= 1
    limit = step_limit_of(bench, episode.task)
    camera = bench.cameras[0].name
    env.look_at(chooser.cameras | {camera} if video else chooser.cameras)
    eyes = _Eyes(job, bench, env)
    frames: list[Image] = []
    looks = chooser.looks
    result = env.reset(episode, render=looks or video)
    chooser.reset(episode)
    history = deque([result.observation] * chooser.window, maxlen=chooser.window)
    step = 0
    first: int | None = None
    while not (result.success or result.over) and step < limit:
        chunk = chooser.ask(eyes.see(history) if looks else None)
        for place, action in enumerate(chunk[:execute]):
            if video and result.observation is not None:
                frames.append(result.observation.images[camera])
            step += 1
            left = min(execute, len(chunk)) - place - 1  # steps from here to the next question
            asked = left < chooser.window and step + left < limit
            solved = result.completed
            result = env.step(action, render=video or (looks and asked))
            if first is None and (result.success or result.holds):
                first = step
            if result.observation is not None:
                history.append(result.observation)
            if result.completed != solved:
                assert result.observation is not None
                history.extend([result.observation] * chooser.window)
                break
            if result.success or result.over or step >= limit:
                break
    if video and result.observation is not None:
        frames.append(result.observation.images[camera])
    return {
        "success": result.success,
        "steps": step,
        "first_success_step": first,
        "failure": None if result.success else OVER if result.over else STEP_LIMIT,
        "completed": result.completed,
        "partial": result.partial,
        "wall_s": time.perf_counter() - started,
        "frames": np.stack(frames) if video else None,
    }


def demo(job: Job, bench: Benchmark, env: Env) -> dict[str, Any]:
    """The scripted expert with noise on its arm; what is recorded is what was seen, and the clean action as label.

    Gaussian noise of sd ``noise`` (of the typical size of actions, where they have no limits) is added to the arm
    dimensions and clipped to their limits. Recording goes on for
    ``after_success`` steps after the first success. An episode without success, or one that is asked for without
    ``pictures``, comes back without them.
    ``vectors``: what the simulator's own data format wants to know, where it has one (``Env.vectors``), of every frame
    and of the moment after the last action: N + 1 rows.
    """
    episode, noise, after = EpisodeSpec.from_dict(job["episode"]), float(job["noise"]), int(job["after_success"])
    spec, expert = bench.action_spec, bench.expert(env)
    low, high = (np.array([getattr(d, side) for d in spec.dimensions], np.float32) for side in ("low", "high"))
    arm = list(spec.arm)
    size = getattr(bench, "typical", np.ones(spec.size, np.float32))[arm]
    random = np.random.default_rng(np.random.SeedSequence(episode.seed))
    seen: list[Observation] = []
    labels: list[Vector] = []
    executed: list[Vector] = []
    successes: list[bool] = []
    vectors: list[Mapping[str, npt.NDArray[Any]]] = []
    own: Callable[[], Mapping[str, npt.NDArray[Any]]] = getattr(env, "vectors", dict)
    env.look_at([camera.name for camera in bench.cameras] if job["pictures"] else [])
    result = env.reset(episode)
    expert.reset(episode)
    end = step_limit_of(bench, episode.task)
    while len(labels) < end:
        assert result.observation is not None
        label = spec.check(expert.act())
        noisy = label.copy()
        noisy[arm] += size * random.normal(0.0, noise, len(arm)).astype(np.float32)
        seen.append(result.observation)
        labels.append(label)
        executed.append(np.clip(noisy, low, high))
        vectors.append(own())
        result = env.step(executed[-1], render=True)
        if result.success and not any(successes):
            end = len(labels) + after
        successes.append(result.success)
    vectors.append(own())
    success = any(successes)
    cameras = [c.name for c in bench.cameras] if success and job["pictures"] else []
    return {
        "success": success,
        "images": {name: np.stack([o.images[name] for o in seen]) for name in cameras},
        "states": np.stack([_state(o) for o in seen]),
        "actions": np.stack(labels),
        "executed": np.stack(executed),
        "vectors": {name: np.stack([v[name] for v in vectors]) for name in vectors[0]},
        "successes": np.array(successes),
    }


def frame(job: Job, bench: Benchmark, env: Env) -> dict[str, Any]:
    """The first picture and state of a start."""
    env.look_at([bench.cameras[0].name])
    observation = env.reset(EpisodeSpec.from_dict(job["episode"])).observation
    assert observation is not None
    return {"frame": observation.images[bench.cameras[0].name], "state": _state(observation)}


def moved(job: Job, bench: Benchmark, env: Env) -> dict[str, Any]:
    """The same few steps of the expert from a start, before, while and after the cameras are moved.

    ``pictures``: of all cameras, after the last step of each of the three; ``states`` (3, ...): of the world then.
    """
    episode = EpisodeSpec.from_dict(job["episode"])
    perturb.must_offer(bench, [CAMERA_MOVED])
    env.look_at([camera.name for camera in bench.cameras])
    expert = bench.expert(env)
    pictures: list[dict[str, Image]] = []
    states: list[npt.NDArray[np.float64]] = []
    for shifts in ({}, perturb.camera_shifts(bench, episode), {}):
        perturb.move_cameras(env, shifts)
        result = env.reset(episode)
        expert.reset(episode)
        for _ in range(_MOVED_STEPS):
            result = env.step(bench.action_spec.check(expert.act()), render=True)
        assert result.observation is not None
        pictures.append(dict(result.observation.images))
        states.append(env.snapshot())
    return {"pictures": pictures, "states": np.stack(states)}


def replay(job: Job, env: Env) -> dict[str, Any]:
    """Execute a list of actions (N, A) without rendering: the full state at the start and after each step."""
    result: StepResult = env.reset(EpisodeSpec.from_dict(job["episode"]), render=False)
    start = env.snapshot()
    states = []
    successes: list[bool] = []
    for action in job["actions"]:
        result = env.step(np.asarray(action, np.float32), render=False)
        states.append(env.snapshot())
        successes.append(result.success)
    stacked = np.stack(states) if states else np.empty((0, start.size))
    return {"start": start, "states": stacked, "successes": np.array(successes, bool)}


def _state(observation: Observation) -> Vector:
    return np.zeros(0, np.float32) if observation.state is None else observation.state
