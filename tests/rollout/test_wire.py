import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from websockets.sync.server import ServerConnection, serve

from vlm4vla.rollout import wire
from vlm4vla.types import UserError

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.byte_string_dtypes(min_len=1, max_len=5),
    hnp.unicode_string_dtypes(min_len=1, max_len=5),
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(ARRAYS)
def test_arrays_come_back_exactly(array: np.ndarray) -> None:
    back = wire.unpack(wire.pack({"a": array}))["a"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes(), "compared as bytes: NaN has no equal"


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4))
def test_plain_messages_come_back(message: dict[str, object]) -> None:
    assert wire.unpack(wire.pack(message)) == message


@pytest.mark.parametrize("scalar", [np.float32(1.5), np.int64(-3), np.bool_(True), np.uint8(255), np.float16(0.5)])
def test_scalars_come_back_with_their_dtype(scalar: np.generic) -> None:
    back = wire.unpack(wire.pack([scalar]))[0]
    assert (back, back.dtype) == (scalar, scalar.dtype)


def test_a_strided_array_is_sent_by_value() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)[::-1, ::2]
    assert (wire.unpack(wire.pack(image)) == image).all()


@pytest.mark.parametrize(
    "value", [np.array([None]), np.array([1j]), np.zeros(2, "i4,i4"), np.complex64(1), np.datetime64("2026-01-01"), {1}]
)
def test_what_could_hold_objects_is_not_sent(value: object) -> None:
    with pytest.raises(UserError, match=r"cannot be sent.*Possible: nested dicts"):
        wire.pack({"x": value})


def forged(data: object = b"\0" * 4, dtype: object = "<f4", shape: object = (1,), **more: object) -> bytes:
    array = {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}
    return msgpack.packb(array | {k.encode(): v for k, v in more.items()})


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\xc0\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000 + b"\xc0",
        b"\x81\x90\x01",
        msgpack.packb({1: 2}),
        msgpack.packb({b"__ndarray__": True}),
        forged(dtype="O"),
        forged(dtype="object"),
        forged(dtype="|V4"),
        forged(dtype="<c8"),
        forged(dtype="i4,f4"),
        forged(dtype="M8[D]"),
        forged(dtype="S0", data=b""),
        forged(dtype=7),
        forged(dtype="<f4" * 100),
        forged(dtype="no such thing"),
        forged(shape=[2]),
        forged(shape=[-1]),
        forged(shape=[1.0]),
        forged(shape=[True]),
        forged(shape="1"),
        forged(shape=None),
        forged(shape=[1] * 40),
        forged(shape=[0, 2**62, 2**62], data=b""),
        forged(shape=[0, 2**31 - 1, 2**31 - 1, 2**31 - 1], data=b""),
        forged(data="1234"),
        forged(data=[1, 2, 3, 4]),
        msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "u1"}),
        msgpack.packb({b"__npgeneric__": True, b"data": [1], b"dtype": "u1"}),
        msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}),
        msgpack.packb({b"__npgeneric__": True, b"data": b"x", b"dtype": "O"}),
        msgpack.packb({b"__npgeneric__": True, b"dtype": "<f4"}),
    ],
)
def test_hostile_frames_are_refused_with_a_sentence(frame: bytes) -> None:
    with pytest.raises(UserError, match=r"A frame of \d+ bytes cannot be read: .+ Possible: one msgpack map"):
        wire.unpack(frame)


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_noise_is_read_or_refused_never_worse(frame: bytes) -> None:
    try:
        wire.unpack(frame)
    except UserError as error:
        assert "cannot be read" in str(error)


@settings(max_examples=200)
@given(ARRAYS, st.data())
def test_a_flipped_byte_never_gives_more_than_was_sent(array: np.ndarray, data: st.DataObject) -> None:
    frame = bytearray(wire.pack({"a": array}))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        got = wire.unpack(bytes(frame))
    except UserError:
        return
    if isinstance(got, dict):
        for value in got.values():
            assert not isinstance(value, np.ndarray) or value.nbytes <= len(frame)


def test_an_oversized_frame_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 10)
    with pytest.raises(UserError, match=r"A frame of 11 bytes came in. Possible: at most 10 bytes"):
        wire.unpack(b"\xc0" * 11)


def test_keys_of_cameras() -> None:
    assert wire.image_keys(["corner"]) == {"corner": "observation/image"}
    assert wire.image_keys(["wrist", "static"]) == {"wrist": "observation/image", "static": "observation/static"}
    assert wire.image_keys(["static", "gripper", "hand2"]) == {
        "static": "observation/image",
        "gripper": "observation/wrist_image",
        "hand2": "observation/hand2",
    }


def test_nobody_there() -> None:
    with pytest.raises(UserError, match=r"No policy server answers at 'ws://127.0.0.1:9'.*vlm4vla serve"):
        wire.PolicyClient("ws://127.0.0.1:9", timeout=2)


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (None, "gave no answer in 2 s"),
        ("welcome", "welcome"),
        (b"\xc1", "A frame of 1 bytes cannot be read"),
        (msgpack.packb([1]), "sent list"),
        ("", "closed the connection"),
    ],
)
def test_a_server_of_another_protocol(first: str | bytes | None, told: str) -> None:
    ended = threading.Event()

    def greet(connection: ServerConnection) -> None:
        if first:
            connection.send(first)
        if first != "":
            ended.wait(60)

    with serve(greet, "127.0.0.1", 0) as server, ThreadPoolExecutor(1) as threads:
        threads.submit(server.serve_forever)
        uri = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        message = rf"The server at '{uri}' does not speak openpi's protocol.*{told}.*Possible: ws://HOST.*vlm4vla serve"
        try:
            with pytest.raises(UserError, match=message):
                wire.PolicyClient(uri, timeout=60 if first is not None else 2)
        finally:
            ended.set()
            server.shutdown()


def test_a_port_where_nobody_speaks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(UserError, match="No policy server answers at"):
        wire.PolicyClient(f"ws://127.0.0.1:{mute.getsockname()[1]}", timeout=0.3)


def test_not_an_address() -> None:
    with pytest.raises(UserError, match=r"Possible: ws://HOST:PORT"):
        wire.PolicyClient("http//nonsense", timeout=2)
