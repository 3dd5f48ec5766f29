"""The choice of OpenGL, on folders that stand for /dev. (The real choice: test_metaworld_sim.py.)"""

import os

import pytest

from vlm4vla.bench import mujoco_backend as backend


@pytest.fixture
def device(tmp_path, monkeypatch):
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(backend, "_DEVICES", tmp_path)
    return tmp_path / "nvidia0"


def answering(monkeypatch, tmp_path, ending):
    """The interpreter that tries EGL, played by a script."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\ntest "$MUJOCO_GL" = egl || exit 9\n{ending}\n')
    script.chmod(0o755)
    monkeypatch.setattr(backend.sys, "executable", str(script))


def test_a_device_is_used_only_where_egl_works(device, monkeypatch, tmp_path):
    answering(monkeypatch, tmp_path, "exit 0")
    assert backend.choose() == "osmesa"  # no device: not even tried
    assert os.environ["PYOPENGL_PLATFORM"] == "osmesa"
    device.touch()
    monkeypatch.setenv("MUJOCO_GL", "")
    assert backend.choose() == os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == "egl"
    answering(monkeypatch, tmp_path, "exit 1")
    monkeypatch.setenv("MUJOCO_GL", "")
    assert backend.choose() == os.environ["MUJOCO_GL"] == "osmesa"


def test_an_egl_that_hangs_is_not_used(device, monkeypatch, tmp_path):
    device.touch()
    answering(monkeypatch, tmp_path, "exec sleep 60")
    monkeypatch.setattr(backend, "_PROBE_S", 0.2)
    assert backend.choose() == "osmesa"


def test_the_user_decides(device, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert backend.choose() == "egl"
