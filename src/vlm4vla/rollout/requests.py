"""What a request must look like: the server's metadata, and the check of each request against it."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from vlm4vla.rollout.batching import ActingPolicy
from vlm4vla.rollout.wire import INSTRUCTION_KEY, NOISE_KEY, NOISES, SERVER, STATE_KEY, image_keys
from vlm4vla.types import Image, Observation, UserError, Vector, refuse

_MAX_SIDE = 8192  # pixels; a picture beyond it is a mistake, and resizing it would stall everybody's inference


def package_version() -> str:
    try:
        return version("vlm4vla")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


def metadata(policy: ActingPolicy, batch: int, tokens: int) -> dict[str, Any]:
    """The map of ``wire``'s docstring: what this server is, expects and answers."""
    keys = image_keys(policy.cameras)
    shape = [policy.image_size, policy.image_size, 3]
    state = None
    if policy.state_names:
        names = list(policy.state_names)
        state = {"key": STATE_KEY, "shape": [len(names)], "dtype": "float32", "names": names}
    return {
        "server": SERVER,
        "version": package_version(),
        "digest": policy.digest,
        "batch": batch,
        "tokens": tokens,
        "chunk": policy.chunk,
        "action_spec": policy.action_spec.to_dict(),
        "observation": {
            "images": {c: {"key": keys[c], "shape": shape, "dtype": "uint8"} for c in policy.cameras},
            "state": state,
            "instruction": {"key": INSTRUCTION_KEY},
            **({"noise": {"key": NOISE_KEY}} if policy.noisy else {}),
        },
    }


def parse(policy: ActingPolicy, request: object) -> Observation:
    """One openpi request to an Observation; UserError that names what came and what is expected."""
    expected = expectation(policy)
    if not isinstance(request, Mapping):
        raise refuse(f"A message of type {type(request).__name__} came in", possible=expected, todo="Send one map.")
    keys = image_keys(policy.cameras)
    wanted = {*keys.values(), INSTRUCTION_KEY} | ({STATE_KEY} if policy.state_names else set())
    came = {str(key) for key in request}
    welcome = wanted | ({NOISE_KEY} if policy.noisy else set())
    if not wanted <= came <= welcome:
        missing, extra = sorted(wanted - came), sorted(came - welcome)
        raise refuse(
            f"The keys {sorted(came)} came in: missing {missing or 'nothing'}, not known here {extra or 'nothing'}",
            possible=expected,
            todo="Send exactly these keys; the metadata this server sent first lists them.",
        )
    images = {camera: picture(request[key], repr(key), expected) for camera, key in keys.items()}
    state = _state(request[STATE_KEY], policy, expected) if policy.state_names else None
    noise = _noise(request[NOISE_KEY], expected) if NOISE_KEY in came else 0
    return Observation(images, _text(request[INSTRUCTION_KEY], expected), state, noise)


def parse_harness(policy: ActingPolicy, payload: object) -> Observation:
    """One observation of the vla-eval harness to an Observation; UserError as above.

    Cameras go by name; a policy with one camera takes the only picture that comes, whatever its name there.
    A state that this policy does not use is left aside: the harness decides by itself whether it sends one. It sends no
    noise, which is 0 for all of them.
    """
    names = list(policy.cameras)
    expected = f"images {names}, task_description" + (
        f", state ({len(policy.state_names)},)" * bool(policy.state_names)
    )
    if not isinstance(payload, Mapping) or not isinstance(payload.get("images"), Mapping):
        raise refuse("An observation without a map of images came in", possible=expected, todo="Send {images: {...}}.")
    came = payload["images"]
    if len(names) == 1 and len(came) == 1:
        came = {names[0]: next(iter(came.values()))}
    missing = sorted(set(names) - set(came))
    if missing:
        raise refuse(
            f"Pictures of {sorted(map(str, came))} came in, {missing} missing",
            given=missing[0],
            possible=expected,
            todo="Configure the benchmark of the harness to send these cameras.",
        )
    images = {name: picture(came[name], f"of camera {name!r}", expected) for name in names}
    state = _state(payload.get("state"), policy, expected) if policy.state_names else None
    return Observation(images=images, instruction=_text(payload.get("task_description"), expected), state=state)


def expectation(policy: ActingPolicy) -> str:
    """One line on what a request holds."""
    size = policy.image_size
    parts = [
        f"{key!r} (camera {camera!r}, height x width x 3 uint8, best {size} x {size})"
        for camera, key in image_keys(policy.cameras).items()
    ]
    if policy.state_names:
        parts.append(f"{STATE_KEY!r} (({len(policy.state_names)},) float32: {', '.join(policy.state_names)})")
    noise = [f"if wanted {NOISE_KEY!r} (a whole number)"] * policy.noisy
    return ", ".join([*parts, f"{INSTRUCTION_KEY!r} (text)", *noise])


def picture(value: object, what: str, expected: str) -> Image:
    if not isinstance(value, np.ndarray):
        raise _wrong(f"The picture {what} is {type(value).__name__}, not an array", expected)
    fits = value.ndim == 3 and value.shape[2] == 3 and all(0 < n <= _MAX_SIDE for n in value.shape[:2])
    if value.dtype != np.uint8 or not fits:
        raise _wrong(f"The picture {what} has shape {value.shape} and dtype {value.dtype}", expected)
    return value


def _state(value: object, policy: ActingPolicy, expected: str) -> Vector:
    size = len(policy.state_names)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.shape != (size,):
        told = f"shape {value.shape}, dtype {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise _wrong(f"The state is {told}", expected)
    if not np.isfinite(value).all():
        raise _wrong("The state holds numbers that are not finite", expected)
    return value.astype(np.float32)


def _noise(value: object, expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < NOISES:
        raise _wrong(f"The noise is {value!r}, not a whole number from 0 to 2**63 - 1", expected)
    return int(value)


def _text(value: object, expected: str) -> str:
    if not isinstance(value, str):
        raise _wrong(f"The instruction is {type(value).__name__}, not text", expected)
    return str(value)


def _wrong(problem: str, expected: str) -> UserError:
    return refuse(problem, possible=expected, todo="Convert it before it is sent.")
