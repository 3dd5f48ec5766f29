"""doctor: it diagnoses instead of crashing, and says what to do about each gap."""

import builtins
import json
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from vlm4vla import doctor
from vlm4vla.bench import install


def test_report_is_json_and_words() -> None:
    report = doctor.examine()
    assert json.loads(json.dumps(report)) == report
    names = [f["what"] for f in report["findings"]]
    assert {"Python", "torch", "GPU", "OSMesa", "EGL", "Vulkan", "disk", "memory", "bench metaworld"} <= set(names)
    text = doctor.words(report)
    assert all(f["todo"] in text for f in report["findings"])
    assert report["ok"] == all(f["status"] != "gap" for f in report["findings"])


def test_a_torch_that_does_not_import_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *rest: Any, **more: Any) -> ModuleType:
        if name == "torch":
            raise OSError("libtorch_cpu.so: cannot open shared object file")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", broken)
    report = doctor.examine()
    found = {f["what"]: f for f in report["findings"]}
    assert found["torch"]["status"] == found["GPU"]["status"] == "gap" and not report["ok"]
    assert "pip install" in found["torch"]["todo"]


def test_an_absent_benchmark_gets_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "is_installed", lambda _name: False)
    found = {f["what"]: f for f in doctor.examine()["findings"]}
    assert found["bench metaworld"]["todo"] == "vlm4vla bench install metaworld"


def test_a_missing_graphics_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.ctypes.util, "find_library", lambda _name: "libabsent.so.0")
    found = {f["what"]: f for f in doctor.examine()["findings"]}
    assert found["OSMesa"]["status"] == "note" and "libosmesa6" in found["OSMesa"]["todo"]


def test_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "vlm4vla.cli", "doctor", "--json"], capture_output=True, text=True)
    assert json.loads(done.stdout)["ok"] == (done.returncode == 0)
