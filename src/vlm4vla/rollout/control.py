"""The control channel between the runner and a simulator worker: length-prefixed msgpack on two pipes of its own.

A frame is its length in 4 bytes (big endian) and that many bytes of ``wire.pack``. Never stdin or stdout: simulators
print there. The worker's end waits (:class:`Channel`), the runner's never does (:class:`PatientChannel`): it has other
workers to look after.
"""

import os
import struct
from typing import Any

import msgpack

from vlm4vla.rollout.wire import decode_openpi, pack
from vlm4vla.types import refuse

MAX_BYTES = 2**30
"""Largest message. The longest known, a demonstration of 400 steps with pictures of 256 x 256, has 75 MiB."""
_HEADER = struct.Struct(">I")
_PIECE = 2**20


class BrokenFrame(ConnectionError):
    """The other side died inside a frame, or what came is no frame."""


class _Pipes:
    """Owns the two file descriptors of one end."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read = open(read_fd, "rb", buffering=0)  # noqa: SIM115 (closed in close)
        self._write = open(write_fd, "wb", buffering=0)  # noqa: SIM115

    def close(self) -> None:
        self._read.close()
        self._write.close()


class Channel(_Pipes):
    """The worker's end: each call waits until it is done."""

    def send(self, message: dict[str, Any]) -> None:
        """Send one message and wait until the pipe has taken it.

        Raises UserError when the message cannot be packed or is too large (nothing is sent then), and
        BrokenPipeError when the other side is gone.
        """
        rest = memoryview(_to_frame(message))
        while rest:
            rest = rest[os.write(self._write.fileno(), rest) :]

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other side closed between two frames. Arrays in it are read-only.

        Raises BrokenFrame when the stream ends inside a frame, or a frame is too large or not one map.
        """
        header = self._exactly(_HEADER.size)
        if header is None:
            return None
        data = self._exactly(_length(header))
        if data is None:
            raise BrokenFrame("the stream ended after the length of a frame")
        return _to_message(data)

    def _exactly(self, size: int) -> bytes | None:
        """``size`` bytes, or None when the stream ends before the first of them."""
        parts = bytearray()
        while len(parts) < size:
            piece = os.read(self._read.fileno(), min(_PIECE, size - len(parts)))
            if not piece:
                if parts:
                    raise BrokenFrame(f"the stream ended after {len(parts)} of {size} bytes")
                return None
            parts += piece
        return bytes(parts)


class PatientChannel(_Pipes):
    """The runner's end: no call waits. Parts of messages are kept until the rest can be read or written."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        super().__init__(read_fd, write_fd)
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        self._incoming = bytearray()
        self._outgoing = memoryview(b"")

    @property
    def read_fd(self) -> int:
        """To be watched for something to ``receive``."""
        return self._read.fileno()

    @property
    def write_fd(self) -> int | None:
        """To be watched for room to ``flush`` into; None when everything is sent."""
        return self._write.fileno() if self._outgoing else None

    def send(self, message: dict[str, Any]) -> None:
        """Send what the pipe takes now; ``flush`` sends the rest. Raises as ``Channel.send`` does."""
        self._outgoing = memoryview(bytes(self._outgoing) + _to_frame(message))
        self.flush()

    def flush(self) -> None:
        """Send what the pipe takes now. Raises BrokenPipeError when the other side is gone."""
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[os.write(self._write.fileno(), self._outgoing) :]
        except BlockingIOError:
            return

    def receive(self) -> list[dict[str, Any]]:
        """The messages that are whole by now, often none. Arrays in them are read-only.

        Raises BrokenFrame when the other side is gone and has left no whole message, or for what is no frame.
        """
        ended = self._read_what_is_there()
        messages = []
        while (message := self._first()) is not None:
            messages.append(message)
        if ended and not messages:
            raise BrokenFrame(f"the stream ended, with {len(self._incoming)} bytes of a frame")
        return messages

    def _read_what_is_there(self) -> bool:
        """Whether the stream ended. Reads a little over one message at most, so that a busy writer cannot hold us."""
        try:
            while len(self._incoming) < _HEADER.size or len(self._incoming) < _HEADER.size + _length(self._incoming):
                piece = os.read(self.read_fd, _PIECE)
                if not piece:
                    return True
                self._incoming += piece
        except BlockingIOError:
            pass
        return False

    def _first(self) -> dict[str, Any] | None:
        if len(self._incoming) < _HEADER.size:
            return None
        end = _HEADER.size + _length(self._incoming)
        if len(self._incoming) < end:
            return None
        data = bytes(memoryview(self._incoming)[_HEADER.size : end])
        del self._incoming[:end]
        return _to_message(data)


def _length(frame: bytes | bytearray) -> int:
    (length,) = _HEADER.unpack_from(frame)
    if length > MAX_BYTES:
        raise BrokenFrame(f"a frame of {length} bytes was announced; at most {MAX_BYTES} are allowed")
    return int(length)


def _to_frame(message: dict[str, Any]) -> bytes:
    data = pack(message)
    if len(data) > MAX_BYTES:
        raise refuse(
            f"A message of {len(data)} bytes (keys {sorted(message)}) was to be sent on the control channel",
            possible=f"at most {MAX_BYTES} bytes",
            todo="Use smaller pictures, shorter episodes, or no video.",
        )
    return _HEADER.pack(len(data)) + data


def _to_message(data: bytes) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(data, object_hook=decode_openpi)
    # msgpack's errors for malformed input; see wire.unpack, whose limit is the network's
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise BrokenFrame(f"a frame of {len(data)} bytes cannot be read: {error}") from error
    if not isinstance(message, dict):
        raise BrokenFrame(f"a frame holds {type(message).__name__}, not a map")
    return message
