"""The second protocol of the policy server, on the path ``/vla-eval``: that of the vla-eval harness (0.8, protocol 1).

A session's first message is the client's hello. Each observation gets one action: the rest of the chunk waits in the
session's buffer until it is used up or a new episode starts. Two settings travel in the address, as the harness has no
other place for them::

    ws://HOST:PORT/vla-eval?gripper=close_negative&execute=4

``gripper`` is the sense in which the answer's gripper numbers are given. This house counts +1 as open, -1 as closed;
most benchmarks of the harness count the other way round, so **the default is close_positive: our number with its sign
changed**; ``close_negative`` (wanted by some) is our number as it is. The reply to the hello declares which one it is,
and the harness warns where its benchmark disagrees. ``execute``: actions used of each chunk, all by default.
"""

import io
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from vlm4vla.rollout import wire
from vlm4vla.rollout.batching import ActingPolicy, Batcher, outcome
from vlm4vla.rollout.names import GRIPPER_SENSES
from vlm4vla.rollout.requests import package_version, parse_harness
from vlm4vla.types import Dimension, UserError, Vector, refuse

PATH = "/vla-eval"
PROTOCOL_VERSION = 1
_ROTATION_FORMATS = {"euler_xyz": "euler_xyz", "axis_angle": "axis_angle", "quaternion": "quaternion_xyzw"}


def settings(path: str, chunk: int) -> tuple[str, int]:
    """(gripper sense, actions used of each chunk) of an address; UserError for anything else in it."""
    given = dict(parse_qsl(urlsplit(path).query, keep_blank_values=True))
    for name in sorted(set(given) - {"gripper", "execute"}):
        raise refuse(
            f"Unknown setting {name!r} in {path!r}",
            given=name,
            possible=["gripper", "execute"],
            todo="Write /vla-eval?gripper=close_negative&execute=4, or nothing after /vla-eval.",
        )
    values = {"gripper": "close_positive", "execute": str(chunk)} | given
    gripper, execute = values["gripper"], values["execute"]
    if gripper not in GRIPPER_SENSES:
        raise refuse(
            f"gripper={gripper!r} in {path!r}",
            given=gripper,
            possible=list(GRIPPER_SENSES),
            todo="Name the sense that the benchmark of the harness declares.",
        )
    if not execute.isdecimal() or not 1 <= int(execute) <= chunk:
        raise refuse(f"execute={execute!r} in {path!r}", possible=f"1 to {chunk}", todo="Give a whole number.")
    return gripper, int(execute)


class Session:
    """One connection of the harness: ``await answer(frame)`` -> the frame to send back, or None."""

    def __init__(self, policy: ActingPolicy, batcher: Batcher, gripper: str, execute: int) -> None:
        self._policy, self._batcher = policy, batcher
        self._gripper, self._execute = gripper, execute
        self._buffer: list[Vector] = []

    async def answer(self, frame: str | bytes) -> bytes | None:
        """The reply to one frame. A mistake in it comes back as the protocol's error message."""
        try:
            kind, payload, seq = _message(frame)
        except UserError as error:
            return _frame("error", {"error": str(error)}, 0)
        if kind in {"hello", "observation"}:
            reply, sentence = await outcome(self._hello(payload) if kind == "hello" else self._act(payload))
            if reply is None:
                return _frame("error", {"error": sentence}, seq)
            return _frame("hello" if kind == "hello" else "action", reply, seq)
        if kind in {"episode_start", "episode_end"}:
            self._buffer.clear()
        return None

    async def _act(self, payload: object) -> dict[str, Any]:
        if not self._buffer:
            chunk = (await self._batcher.act(parse_harness(self._policy, payload))).copy()
            chunk[:, list(self._policy.action_spec.gripper)] *= GRIPPER_SENSES[self._gripper]
            self._buffer = list(chunk[: self._execute])
        return {"actions": self._buffer.pop(0)}

    async def _hello(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        theirs = payload.get("protocol_version")
        if theirs != PROTOCOL_VERSION:
            raise refuse(
                f"A hello of protocol version {theirs!r} came in",
                possible=f"version {PROTOCOL_VERSION} (vla-eval 0.8)",
                todo="Install that version of the harness.",
            )
        return {
            "harness_version": f"vlm4vla {package_version()}",
            "protocol_version": PROTOCOL_VERSION,
            "model_server": "vlm4vla",
            "capabilities": {},
            "policy": self._policy.digest,
            "action_spec": action_components(self._policy, self._gripper),
            "observation_spec": observation_components(self._policy),
        }


def action_components(policy: ActingPolicy, gripper: str) -> dict[str, Any]:
    """The action spec in the harness' terms: position, rotation, gripper, in the order in which the numbers come.

    Three arm dimensions before the rotation are its position; anything else is declared ``raw``.
    """
    spec = policy.action_spec
    arm = [spec.dimensions[i] for i in spec.arm]
    turn = {"none": 0, "euler_xyz": 3, "axis_angle": 3, "quaternion": 4}[spec.rotation]
    position, rotation = arm[: len(arm) - turn], arm[len(arm) - turn :]
    out: dict[str, Any] = {}
    if position:
        kinds = {d.kind for d in position}
        name = f"{kinds.pop()}_xyz" if len(position) == 3 and len(kinds) == 1 else "raw"
        out["position"] = _component("position", name, position)
    if rotation:
        out["rotation"] = _component("rotation", _ROTATION_FORMATS[spec.rotation], rotation)
    if spec.gripper:
        out["gripper"] = _component("gripper", f"binary_{gripper}", [spec.dimensions[i] for i in spec.gripper])
    return out


def observation_components(policy: ActingPolicy) -> dict[str, Any]:
    out: dict[str, Any] = {name: {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"} for name in policy.cameras}
    out["language"] = {"name": "language", "dims": 0, "format": "language"}
    if policy.state_names:
        out["state"] = {"name": "raw", "dims": len(policy.state_names), "format": "raw"}
    return out


def _component(name: str, convention: str, dimensions: list[Dimension]) -> dict[str, Any]:
    limits = [min(d.low for d in dimensions), max(d.high for d in dimensions)]
    units = sorted({f"{d.unit} in {d.frame}" for d in dimensions})
    return {
        "name": name,
        "dims": len(dimensions),
        "format": convention,
        "range": limits,
        "description": ", ".join(units),
    }


def _frame(kind: str, payload: dict[str, Any], seq: int) -> bytes:
    message = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
    return wire.pack(message, encode=_encode)


def _message(frame: str | bytes) -> tuple[str, Any, int]:
    message = wire.unpack(frame, decode=_decode) if isinstance(frame, bytes) else None
    known = ["hello", "observation", "episode_start", "episode_end", "error"]
    if not isinstance(message, dict) or not {"type", "payload", "seq"} <= set(message):
        raise refuse(
            "A message that is not of the harness came in",
            possible="a binary msgpack map of type, payload, seq, timestamp",
            todo="Connect with vla-eval 0.8; clients of openpi connect to the path /.",
        )
    kind, seq = message["type"], message["seq"]
    if kind not in known or type(seq) is not int or not isinstance(message["payload"], dict):
        raise refuse(f"A message of type {kind!r} came in", given=kind, possible=known, todo="Send one of these.")
    return kind, message["payload"], seq


def _encode(obj: object) -> dict[str, Any]:
    if isinstance(obj, np.ndarray) and obj.dtype.kind in "biuf":
        return {"__ndarray__": True, "data": obj.tobytes(), "dtype": obj.dtype.str, "shape": list(obj.shape)}
    raise TypeError(f"an object of type {type(obj).__name__} was given")


def _decode(obj: dict[Any, Any]) -> Any:
    if "__image__" in obj and obj.get("format") != "raw":
        return _decode_picture(obj)
    if "__ndarray__" in obj or "__image__" in obj:
        return wire.decode_array(obj, "data", "dtype", "shape")
    return obj


def _decode_picture(obj: dict[Any, Any]) -> np.ndarray[Any, Any]:
    """PNG or JPEG bytes to (height, width, channels); the declared shape is checked before anything is unfolded."""
    data, shape = obj.get("data"), obj.get("shape")
    if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) != 3:
        raise ValueError("a picture without bytes or shape")
    try:
        with Pictures.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if [picture.height, picture.width, len(picture.getbands())] != shape:
                raise ValueError(f"a picture of {picture.height} x {picture.width} declared as {shape}")
            if shape[0] * shape[1] * shape[2] > wire.MAX_FRAME_BYTES:
                raise ValueError(f"a picture of {shape}")
            return np.asarray(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, Pictures.DecompressionBombError) as error:
        raise ValueError(f"a picture that cannot be read: {error}") from error
