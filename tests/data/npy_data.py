"""Headers of .npy files, true or not."""

HEADER = b"\x93NUMPY\x01\x00"


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode().ljust(117) + b"\n"
    return HEADER + len(text).to_bytes(2, "little") + text
