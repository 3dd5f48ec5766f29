"""The control channel between the runner and a simulator worker: length-prefixed msgpack on two pipes of its own.

A frame is its length in 4 bytes (big endian) and that many bytes of ``wire.pack``. Never stdin or stdout: simulators
print there.
"""

import os
import struct
from typing import Any

from vlm4vla.rollout.wire import MAX_FRAME_BYTES, pack, unpack
from vlm4vla.types import refuse

_HEADER = struct.Struct(">I")


class BrokenFrame(ConnectionError):
    """The other side died inside a frame, or what came is no frame."""


class Channel:
    """Both directions of one control channel; owns its two file descriptors."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read = open(read_fd, "rb", buffering=0)  # noqa: SIM115 (closed in close)
        self._write = open(write_fd, "wb", buffering=0)  # noqa: SIM115

    def fileno(self) -> int:
        """The reading side, for selectors."""
        return self._read.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message and wait until the pipe has taken it.

        Raises UserError when the message cannot be packed or is too large (nothing is sent then), and
        BrokenPipeError when the other side is gone.
        """
        data = pack(message)
        if len(data) > MAX_FRAME_BYTES:
            raise refuse(
                f"A message of {len(data)} bytes (keys {sorted(message)}) was to be sent on the control channel",
                possible=f"at most {MAX_FRAME_BYTES} bytes",
                todo="Use smaller pictures, shorter episodes, or no video.",
            )
        rest = memoryview(_HEADER.pack(len(data)) + data)
        while rest:
            rest = rest[os.write(self._write.fileno(), rest) :]

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other side closed between two frames. Arrays in it are read-only.

        Raises BrokenFrame when the stream ends inside a frame, or a frame is too large or not one map.
        """
        header = self._exactly(_HEADER.size)
        if header is None:
            return None
        (length,) = _HEADER.unpack(header)
        if length > MAX_FRAME_BYTES:
            raise BrokenFrame(f"a frame of {length} bytes was announced; at most {MAX_FRAME_BYTES} are allowed")
        data = self._exactly(length)
        if data is None:
            raise BrokenFrame("the stream ended after the length of a frame")
        try:
            message = unpack(data)
        except ValueError as error:
            raise BrokenFrame(str(error)) from error
        if not isinstance(message, dict):
            raise BrokenFrame(f"a frame holds {type(message).__name__}, not a map")
        return message

    def close(self) -> None:
        self._read.close()
        self._write.close()

    def _exactly(self, size: int) -> bytes | None:
        """``size`` bytes, or None when the stream ends before the first of them."""
        parts = bytearray()
        while len(parts) < size:
            piece = os.read(self._read.fileno(), size - len(parts))
            if not piece:
                if parts:
                    raise BrokenFrame(f"the stream ended after {len(parts)} of {size} bytes")
                return None
            parts += piece
        return bytes(parts)
