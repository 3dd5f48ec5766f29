"""Pictures as bytes and back: PNG, JPEG or raw; resizing with a declared filter."""

import io
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import PIL.Image

from vlm4vla.types import Image, refuse

Encoding = Literal["png", "jpeg", "raw"]
ENCODINGS: tuple[Encoding, ...] = ("png", "jpeg", "raw")
FILTER = "bicubic"  # Pillow's, with antialiasing when it shrinks; the picture is stretched to the new shape, not cut
# Level 1 makes rendered 96-pixel pictures 3 % larger than level 6 and is 2.6 times as fast; decoding takes as long.
_PNG_LEVEL = 1
_JPEG_QUALITY = 95
_FORMATS = ("PNG", "JPEG")


def encode(image: Image, encoding: Encoding) -> bytes:
    """An (H, W, 3) uint8 picture as bytes. PNG and raw are lossless; JPEG is quality 95 without chroma subsampling."""
    if encoding == "raw":
        return np.ascontiguousarray(image).tobytes()
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(np.ascontiguousarray(image))
    if encoding == "png":
        picture.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    else:
        picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode(data: bytes, encoding: Encoding, height: int, width: int) -> Image:
    """The (height, width, 3) uint8 picture of ``data``; it may be read-only (raw shares the bytes)."""
    if encoding == "raw":
        return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)
    return decode_any(data)


def decode_any(data: bytes) -> Image:
    """The (H, W, 3) uint8 RGB picture of PNG or JPEG bytes; refuses any other kind, some of which run programs."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise refuse(
            f"{len(data)} bytes are no picture that can be read: {error}",
            possible="PNG or JPEG of at most 178 million pixels",
            todo="Fetch the data again, or convert its pictures.",
        ) from error


def resize(image: Image, height: int, width: int) -> Image:
    """``image`` at the given size; the very same object when it has that size already."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BICUBIC))


class EncodedFrames:
    """A lazy sequence of (H, W, 3) pictures over PNG or JPEG bytes; ``encoded`` hands the bytes on untouched."""

    def __init__(self, encoded: Sequence[bytes]) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int, /) -> Image:
        return decode_any(self.encoded[index])

    def __iter__(self) -> Iterator[Image]:
        return (decode_any(data) for data in self.encoded)

    def are_png(self, height: int, width: int) -> bool:
        """Whether all pictures are PNG of this size already (only their headers are read)."""
        for data in self.encoded:
            with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                if picture.format != "PNG" or picture.size != (width, height):
                    return False
        return True
