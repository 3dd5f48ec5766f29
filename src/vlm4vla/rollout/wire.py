"""The wire between a robot (or a simulator worker) and a policy server: openpi's msgpack frames over a WebSocket.

An array travels as a map with **bytes** keys ``{b"__ndarray__": True, b"data", b"dtype", b"shape"}``, a NumPy scalar
as ``{b"__npgeneric__": True, b"data", b"dtype"}`` (the protocol of openpi-client 0.1.2, checked against its own client
in the tests). Nothing is ever unpickled; dtypes that could hold objects are refused. Needs numpy, msgpack and
websockets only, so that every simulator's environment can import it.

What the server says first (the metadata of our own servers; other servers may say anything, or nothing of use)::

    {"server": "vlm4vla", "version": str, "digest": str, "batch": int, "tokens": int,
     "chunk": H, "action_spec": ActionSpec.to_dict(),
     "observation": {
         "images": {camera: {"key": "observation/image", "shape": [height, width, 3], "dtype": "uint8"}, ...},
         "state": None or {"key": "observation/state", "shape": [S], "dtype": "float32", "names": [...]},
         "instruction": {"key": "prompt"},
         "noise": {"key": "vlm4vla/noise"}}}  # only where the policy draws its actions at random

A request has exactly these keys (the key of each camera comes from the metadata; :func:`image_keys` is the rule), the
reply ``{"actions": (H, A) float32}`` in the units of the action spec. The noise is a whole number from 0 to 2**63 - 1,
the seed of what the policy draws for this request; a client that does not know of it leaves it out, which means 0: its
answers then follow from what is observed, as those of a policy that draws nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import msgpack
import numpy as np
import websockets.exceptions
from websockets.sync.client import connect

from vlm4vla.types import UserError, camera_and_age, refuse

MAX_FRAME_BYTES = 64 * 2**20
"""Largest frame either side accepts: some 30 pictures of 800 x 800, far above any observation seen so far."""

SERVER = "vlm4vla"
"""What a server of ours calls itself in its metadata."""
INSTRUCTION_KEY = "prompt"
STATE_KEY = "observation/state"
NOISE_KEY = "vlm4vla/noise"
NOISES = 2**63

_KINDS = "biufSU"  # booleans, numbers, fixed-size strings: what NumPy can rebuild from bytes without running code
_MAX_DIMENSIONS = 32
_MAX_EXTENT = 2**31


class ServerError(RuntimeError):
    """The policy server answered with a text frame: its message, which the sender's mistake usually caused."""


def is_ours(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata are those of a server of this package: only then do its keys mean what they mean here."""
    return "server" in metadata and metadata["server"] == SERVER


def image_keys(views: Sequence[str]) -> dict[str, str]:
    """Name of a picture -> its key in a request, in openpi's usual names.

    The first camera is ``observation/image``; the first other one that rides on the arm (its name says wrist, hand or
    gripper) is ``observation/wrist_image``; any further one is ``observation/NAME``. A worker that meets a server
    without metadata of ours applies the same rule to the benchmark's cameras. Earlier
    pictures of a camera (``types.view_names``) have its key with their own ending: ``observation/image@-1``.
    """
    keys: dict[str, str] = {}
    for camera in dict.fromkeys(camera_and_age(view)[0] for view in views):
        key = f"observation/{camera}"
        if not keys:
            key = "observation/image"
        elif "observation/wrist_image" not in keys.values() and any(w in camera for w in ("wrist", "hand", "gripper")):
            key = "observation/wrist_image"
        keys[camera] = key
    assert len(set(keys.values())) == len(keys), f"two cameras share a key: {keys}"
    return {view: keys[camera] + view.removeprefix(camera) for view in views for camera, _ in [camera_and_age(view)]}


def pack(obj: Any, encode: Callable[[object], Any] | None = None) -> bytes:
    """Message (nested dicts, lists, str, bytes, numbers, NumPy arrays and scalars) to bytes.

    ``encode`` replaces openpi's way of writing what msgpack does not know (the other protocol has its own).
    Raises UserError for objects the protocol cannot carry (dtype kinds O, V, c among them).
    """
    try:
        data: bytes = msgpack.packb(obj, default=encode or encode_openpi)
    except (TypeError, OverflowError) as error:  # msgpack's own words for an object it does not know
        raise refuse(
            f"This message cannot be sent: {error}",
            possible="nested dicts and lists of text, bytes, numbers and NumPy arrays",
            todo="Convert it to plain data or arrays first.",
        ) from error
    return data


def unpack(data: bytes, decode: Callable[[dict[Any, Any]], Any] | None = None) -> Any:
    """Bytes to the message; ``decode`` is the counterpart of ``encode``. Arrays are read-only views of ``data``.

    Raises UserError when ``data`` is not msgpack, is too large, or declares an array it does not contain.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise refuse(
            f"A frame of {len(data)} bytes came in",
            possible=f"at most {MAX_FRAME_BYTES} bytes",
            todo="Send smaller pictures; the policy scales them down anyway.",
        )
    try:
        return msgpack.unpackb(data, object_hook=decode or decode_openpi)
    # msgpack raises ValueError (and subclasses) for malformed input, TypeError for unhashable map keys, and
    # RecursionError or its own StackError for hostile nesting. UserError is a ValueError too.
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise refuse(
            f"A frame of {len(data)} bytes cannot be read: {str(error) or type(error).__name__}",
            possible="one msgpack map, arrays as in openpi-client",
            todo="Send one complete message per binary frame.",
        ) from error


class PolicyClient:
    """One blocking connection to a policy server that speaks openpi's protocol.

    The server speaks first: its metadata map is in ``metadata`` as soon as the constructor returns. ``timeout`` is in
    seconds and holds for connecting and for each reply. No proxy is used for this machine's own addresses. Raises
    UserError when nobody answers there, or somebody who does not speak openpi's protocol.
    """

    metadata: dict[str, Any]

    def __init__(self, uri: str, timeout: float) -> None:
        self.uri = uri
        self.timeout = timeout
        local = urlsplit(uri).hostname in {"127.0.0.1", "localhost", "::1"}
        self._open = ExitStack()
        try:
            self._connection = self._open.enter_context(
                connect(
                    uri,
                    compression=None,
                    max_size=MAX_FRAME_BYTES,
                    open_timeout=timeout,
                    close_timeout=5,
                    ping_interval=None,  # ``timeout`` decides; a busy server must not be taken for a dead one
                    proxy=None if local else True,
                )
            )
        except (OSError, TimeoutError, ValueError, websockets.exceptions.WebSocketException) as error:
            raise refuse(
                f"No policy server answers at {uri!r}: {error}",
                possible="ws://HOST:PORT of a running server",
                todo="Start one (`vlm4vla serve POLICY`) and give the address it prints.",
            ) from error
        try:
            self.metadata = self._receive()
        except (TimeoutError, ConnectionError, ServerError, UserError) as error:
            self.close()
            raise refuse(
                f"The server at {uri!r} does not speak openpi's protocol, in which the server's metadata come first: "
                f"{error}",
                possible="ws://HOST:PORT of a server of vlm4vla or openpi",
                todo="Check the address and its path, or start one (`vlm4vla serve POLICY`).",
            ) from error
        except BaseException:
            self.close()
            raise

    def infer(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        """Send one observation, wait for the reply (``{"actions": (H, A), ...}``).

        Raises ServerError when the server answers with an error (the connection stays usable), TimeoutError, and
        ConnectionError when the connection is lost.
        """
        try:
            self._connection.send(pack(obs))
        except websockets.exceptions.ConnectionClosed as error:
            raise ConnectionError(f"the policy server at {self.uri} closed the connection: {error}") from error
        return self._receive()

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        try:
            frame = self._connection.recv(self.timeout)
        except TimeoutError as error:
            raise TimeoutError(f"the policy server at {self.uri} gave no answer in {self.timeout:g} s") from error
        except websockets.exceptions.ConnectionClosed as error:
            raise ConnectionError(f"the policy server at {self.uri} closed the connection: {error}") from error
        if isinstance(frame, str):
            raise ServerError(frame)
        reply = unpack(frame)
        if not isinstance(reply, dict):
            raise refuse(
                f"The server at {self.uri} sent {type(reply).__name__}",
                possible="a msgpack map",
                todo="Give the address of a server that speaks openpi's protocol.",
            )
        return reply


def encode_openpi(obj: object) -> dict[bytes, Any]:
    """An array or NumPy scalar as openpi writes it; TypeError for anything else."""
    if isinstance(obj, np.ndarray):
        _check_kind(obj.dtype)
        return {b"__ndarray__": True, b"data": obj.tobytes(), b"dtype": obj.dtype.str, b"shape": list(obj.shape)}
    if isinstance(obj, np.generic):
        _check_kind(obj.dtype)
        return {b"__npgeneric__": True, b"data": obj.item(), b"dtype": obj.dtype.str}
    raise TypeError(f"an object of type {type(obj).__name__} was given")


def decode_openpi(obj: dict[Any, Any]) -> Any:
    """A map as read, or the array or scalar that it stands for; ValueError or TypeError for a false one."""
    if b"__ndarray__" in obj:
        return decode_array(obj, b"data", b"dtype", b"shape")
    if b"__npgeneric__" in obj:
        dtype = _dtype(obj, b"dtype")
        value = obj.get(b"data")
        if not isinstance(value, bool | int | float | str | bytes):
            raise ValueError(f"a scalar of dtype {dtype.str} holds {type(value).__name__}")
        try:
            return dtype.type(value)
        except OverflowError as error:
            raise ValueError(str(error)) from error
    return obj


def decode_array(obj: Mapping[Any, Any], data_key: Any, dtype_key: Any, shape_key: Any) -> np.ndarray[Any, Any]:
    """The array that a map declares; ValueError unless dtype, shape and number of bytes agree."""
    dtype = _dtype(obj, dtype_key)
    if data_key not in obj or shape_key not in obj:
        raise ValueError("an array without data or shape")
    data, shape = obj[data_key], obj[shape_key]
    if not isinstance(data, bytes):
        raise ValueError(f"array data of type {type(data).__name__}, not bytes")
    if not isinstance(shape, list | tuple) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("an array shape that is not a short list")
    if not all(type(n) is int and 0 <= n < _MAX_EXTENT for n in shape):
        raise ValueError(f"the array shape {shape!r}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of shape {tuple(shape)} and dtype {dtype.str}")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _dtype(obj: Mapping[Any, Any], key: Any) -> np.dtype[Any]:
    name = obj.get(key)
    if not isinstance(name, str) or len(name) > 32:
        raise ValueError(f"dtype {name!r}")
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:  # NumPy parses lists of fields: "i4,,"
        raise ValueError(f"dtype {name!r}") from error
    _check_kind(dtype)
    return dtype


def _check_kind(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise TypeError(f"an array of dtype {dtype.str} was given; only numbers, booleans and text are sent")
