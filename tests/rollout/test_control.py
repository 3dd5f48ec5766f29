import os
import struct
import threading

import numpy as np
import pytest

from vlm4vla.rollout import control
from vlm4vla.rollout.control import BrokenFrame, Channel
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
    monkeypatch.setattr(control, "MAX_FRAME_BYTES", 1000)
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
