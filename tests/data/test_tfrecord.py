"""The framing of TFRecord files and the parser of tf.train.Example, against protobuf and a CRC-32C by table."""

import struct

import numpy as np
import pytest
import tfds_files as made
from hypothesis import given
from hypothesis import strategies as st

from vlm4vla.data.formats import tfrecord
from vlm4vla.data.formats.tf_example import Example
from vlm4vla.types import UserError

floats = st.floats(width=32, allow_nan=False)
lists = st.one_of(
    st.lists(st.binary(max_size=40), max_size=5),
    st.lists(floats, max_size=20),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
)


def same(parsed, expected):
    assert set(parsed) == set(expected)
    for name, values in expected.items():
        assert list(parsed[name]) == values


def varint(number):
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def example(feature, name=b"a"):
    """A serialised Example with one feature of the given bytes."""
    return field(1, field(1, field(1, name) + field(2, feature)))


def test_the_crc_of_the_tests_is_crc32c():
    # 123456789 -> e3069283 (RFC 3720, appendix B.4 gives more of them), masked as record_writer.h does
    crc = 0xE3069283
    assert made.masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(records=st.lists(st.binary(max_size=300), max_size=6))
def test_records_are_found_and_read_back(tmp_path_factory, records):
    file = tmp_path_factory.mktemp("frames") / "x.tfrecord"
    file.write_bytes(b"".join(made.frame(r) for r in records))
    places = tfrecord.index(file)
    assert places.shape == (len(records), 2)
    assert [tfrecord.read(file, *place) for place in places.tolist()] == records
    assert tfrecord.checksums(file, places) == b"".join(struct.pack("<I", made.masked_crc(r)) for r in records)


@pytest.fixture
def three(tmp_path):
    """Three records of 50, 60 and 70 bytes: they begin at 0, 66 and 142, their data 12 bytes later."""
    file = tmp_path / "x.tfrecord"
    file.write_bytes(b"".join(made.frame(bytes([k]) * n) for k, n in enumerate((50, 60, 70))))
    return file


def damage(file, at, change=None):
    data = bytearray(file.read_bytes())
    data[at : at + len(change or b"x")] = change or bytes([data[at] ^ 4])
    file.write_bytes(data)


@pytest.mark.parametrize("at", [66 + 12, 66 + 12 + 59, 66 + 12 + 60, 66 + 12 + 63])
def test_a_flipped_bit_in_data_or_its_checksum_is_named(three, at):
    damage(three, at)
    places = tfrecord.index(three).tolist()
    assert tfrecord.read(three, *places[0]) and tfrecord.read(three, *places[2])
    with pytest.raises(UserError, match=r"x\.tfrecord is damaged or cut at byte 78: the checksum of the 60 bytes"):
        tfrecord.read(three, *places[1])


@pytest.mark.parametrize("at", [66, 66 + 7, 66 + 8, 66 + 11])
def test_a_flipped_bit_in_a_length_or_its_checksum_is_named(three, at):
    damage(three, at)
    with pytest.raises(UserError, match=r"x\.tfrecord is damaged or cut at byte 66: the checksum of a record's length"):
        tfrecord.index(three)


@pytest.mark.parametrize("kept", range(143, 228))
def test_a_cut_file_is_named(three, kept):
    data = three.read_bytes()
    assert len(data) == 228
    three.write_bytes(data[:kept])
    with pytest.raises(UserError, match=r"x\.tfrecord is damaged or cut at byte 142: a record"):
        tfrecord.index(three)


def test_a_file_that_shrinks_after_it_was_indexed_is_named(three):
    place = tfrecord.index(three)[2].tolist()
    three.write_bytes(three.read_bytes()[:200])
    with pytest.raises(UserError, match="cut at byte 154: a record of 70 bytes begins here"):
        tfrecord.read(three, *place)


@pytest.mark.parametrize("huge", [71, 2**40, 2**63 - 1, 2**64 - 1])
def test_a_huge_length_with_a_right_checksum_is_refused_without_reading(three, huge):
    length = struct.pack("<Q", huge)
    damage(three, 142, length + struct.pack("<I", made.masked_crc(length)))
    with pytest.raises(UserError, match=f"byte 142: a record declares {huge} bytes, but the file has room for 70"):
        tfrecord.index(three)


@given(features=st.dictionaries(st.text(max_size=8), lists, max_size=5))
def test_the_parser_agrees_with_protobuf(tmp_path_factory, features):
    data = made.encode(features)
    assert made.decode(data) == {name: list(values) for name, values in features.items()}
    same(Example(data, tmp_path_factory.getbasetemp() / "x"), features)
    same(Example(memoryview(b"ab" + data)[2:], tmp_path_factory.getbasetemp() / "x"), features)


@given(
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9),
    reals=st.lists(floats, max_size=9),
    packed=st.lists(st.booleans(), min_size=18, max_size=18),
)
def test_packed_unpacked_and_mixed_numbers(tmp_path_factory, numbers, reals, packed):
    integers = single = b""
    for n, together in zip(numbers, packed, strict=False):
        integers += field(1, varint(n % 2**64)) if together else b"\x08" + varint(n % 2**64)
    for x, together in zip(reals, packed[9:], strict=False):
        single += field(1, struct.pack("<f", x)) if together else b"\x0d" + struct.pack("<f", x)
    for feature, expected in ((field(3, integers), numbers), (field(2, single), reals)):
        data = example(feature)
        assert made.decode(data)["a"] == expected
        parsed = Example(data, tmp_path_factory.getbasetemp() / "x")["a"]
        assert parsed.tolist() == expected and parsed.dtype == (np.int64 if expected is numbers else np.float32)


@given(data=st.binary(max_size=60), features=st.dictionaries(st.text(max_size=3), lists, max_size=2), at=st.data())
def test_damaged_messages_are_read_as_protobuf_reads_them_or_refused(tmp_path_factory, data, features, at):
    whole = bytearray(made.encode(features))
    place = at.draw(st.integers(0, len(whole)))
    whole[place : place + at.draw(st.integers(0, 3))] = data
    try:
        parsed = Example(bytes(whole), tmp_path_factory.getbasetemp() / "x", 7)
        found = {name: list(parsed[name]) for name in parsed}
    except UserError as error:
        assert "the record at byte 7 cannot be read" in str(error)
        return
    expected = made.decode(bytes(whole))
    assert set(found) == set(expected)
    for name, values in found.items():
        assert np.array_equal(values, expected[name], equal_nan=bool(values) and isinstance(values[0], np.floating))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x0a\xff\xff\xff\xff\x7f", r"a field of 34359738367 bytes where 0 are left"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", r"bytes where 0 are left"),
        (b"\x0a" + b"\xff" * 11, "an integer of more than 10 bytes"),
        (b"\x0a\x80", "an integer that does not end"),
        (b"\x08\x05", "wire type 0 instead of a message"),
        (b"\x0b", "wire type 3"),
        (b"\x02\x00", "field number 0"),
        (example(field(3, field(1, b"\x80\x80"))), "an integer that does not end"),
        (example(field(3, field(1, b"\x80" * 10 + b"\x01"))), "more than 10 bytes"),
        (example(field(2, field(1, b"abc"))), "floats of wire type 2 in 3 bytes"),
        (example(field(1, b"\x08\x05")), "bytes of wire type 0"),
        (example(field(3, b"\x0d1234")), "integers of wire type 5"),
        (example(b"\x08\x05"), "a list of wire type 0"),
        (example(field(1, b"") + field(2, b"")), "a second list of values"),
        (example(b"", b"\xff"), "a name that is not UTF-8"),
        (field(1, field(1, b"\x08\x01")), "wire type 0 in a map entry"),
        (example(b"") + example(b""), "the feature 'a' comes twice"),
    ],
)
def test_malformed_messages_are_refused_with_their_place(tmp_path, data, said):
    with pytest.raises(UserError, match=rf"x: the record at byte 100 cannot be read: .*\(byte 1\d\d: .*{said}"):
        dict(Example(data, tmp_path / "x", 100))
