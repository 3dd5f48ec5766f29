import os
import select
import struct
import threading

import numpy as np
import pytest

from vlm4vla.rollout import control, wire
from vlm4vla.rollout.control import BrokenFrame, Channel, PatientChannel
from vlm4vla.types import UserError


@pytest.fixture
def pair():
    a_read, b_write = os.pipe()
    b_read, a_write = os.pipe()
    a, b = Channel(a_read, a_write), Channel(b_read, b_write)
    yield a, b
    a.close()
    b.close()


def test_a_message_larger_than_the_pipe_arrives_whole(pair):
    a, b = pair
    frames = np.random.default_rng(0).integers(0, 255, (50, 96, 96, 3), np.uint8)
    sender = threading.Thread(target=a.send, args=({"kind": "result", "frames": frames, "none": None},))
    sender.start()
    message = b.receive()
    sender.join()
    assert message is not None
    assert np.array_equal(message["frames"], frames) and message["none"] is None


def test_end_between_frames_is_none_and_inside_a_frame_is_an_error():
    read, write = os.pipe()
    channel = Channel(read, os.dup(write))
    os.write(write, struct.pack(">I", 100) + b"only this")
    os.close(write)
    channel._write.close()
    with pytest.raises(BrokenFrame, match="9 of 100"):
        channel.receive()
    assert channel.receive() is None  # the rest of the stream is empty
    channel.close()


def test_too_large_frames_are_refused_on_both_sides(pair, monkeypatch):
    a, b = pair
    monkeypatch.setattr(control, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="at most 1000 bytes"):
        a.send({"frames": np.zeros(2000, np.uint8)})
    a.send({"fits": 1})
    assert b.receive() == {"fits": 1}  # nothing of the refused message was sent
    os.write(a._write.fileno(), struct.pack(">I", 2**31))
    with pytest.raises(BrokenFrame, match="announced"):
        b.receive()


def test_sending_to_a_dead_side_raises(pair):
    a, b = pair
    b.close()
    with pytest.raises(BrokenPipeError):
        a.send({"kind": "stop"})


@pytest.fixture
def ends():
    """The runner's end, which never waits, and the worker's."""
    a_read, b_write = os.pipe()
    b_read, a_write = os.pipe()
    a, b = PatientChannel(a_read, a_write), Channel(b_read, b_write)
    yield a, b
    a.close()
    b.close()


def test_half_a_frame_is_kept_until_the_rest_comes(ends):
    runner, worker = ends
    assert runner.receive() == []
    frame = control._to_frame({"n": 1}) + control._to_frame({"n": 2})
    got = []
    for i in range(len(frame)):
        os.write(worker._write.fileno(), frame[i : i + 1])
        got += runner.receive()
    assert got == [{"n": 1}, {"n": 2}]
    os.write(worker._write.fileno(), frame + frame[:3])
    assert runner.receive() == [{"n": 1}, {"n": 2}]
    worker.close()
    with pytest.raises(BrokenFrame, match="3 bytes"):
        runner.receive()


def test_the_last_words_of_a_worker_are_heard(ends):
    runner, worker = ends
    worker.send({"n": 1})
    worker.close()
    assert runner.receive() == [{"n": 1}]
    with pytest.raises(BrokenFrame):
        runner.receive()


def test_sending_more_than_the_pipe_holds_waits_for_nobody(ends):
    runner, worker = ends
    data = np.random.default_rng(0).bytes(2**20)
    runner.send({"data": data})
    assert runner.write_fd is not None  # nobody has read yet
    runner.send({"n": 2})
    got = []
    reader = threading.Thread(target=lambda: got.extend([worker.receive(), worker.receive()]))
    reader.start()
    while runner.write_fd is not None:
        select.select([], [runner.write_fd], [])
        runner.flush()
    reader.join()
    assert got == [{"data": data}, {"n": 2}]
    worker.close()
    with pytest.raises(BrokenPipeError):
        runner.send({"n": 3})


def test_what_is_no_frame_is_told(ends):
    runner, worker = ends
    os.write(worker._write.fileno(), struct.pack(">I", 1) + b"\xc1")  # a byte that msgpack never uses
    with pytest.raises(BrokenFrame, match="cannot be read"):
        runner.receive()
    os.write(worker._write.fileno(), struct.pack(">I", 2**31))
    with pytest.raises(BrokenFrame, match="announced"):
        runner.receive()


def test_a_message_may_be_larger_than_a_frame_of_the_network(ends, monkeypatch):
    """400 steps with pictures of 256 x 256 are 75 MiB, the network's limit is 64; here on a smaller scale."""
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 1000)
    runner, worker = ends
    worker.send({"data": bytes(2000)})
    assert runner.receive() == [{"data": bytes(2000)}]
    assert control.MAX_BYTES >= 400 * 256 * 256 * 3
