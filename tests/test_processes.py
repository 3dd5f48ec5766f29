"""Children that must not outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")

LATE = "import sys; from vlm4vla.processes import die_with_parent; die_with_parent(int(sys.argv[1])); print('lives')"
# The process pool of data/build.py, with a job that hangs.
POOL = """
import os, sys, time
from pathlib import Path
from vlm4vla.data import build

def hang(folder):
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(3600)

if __name__ == "__main__":
    build._group = hang
    with build._mapper(2) as mapped:
        list(mapped([sys.argv[1], sys.argv[1]]))
"""


def test_a_child_whose_parent_has_gone_before_it_asked_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", LATE, "1"], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL and "lives" not in done.stdout
    done = subprocess.run([sys.executable, "-c", LATE, str(os.getpid())], capture_output=True, text=True)
    assert done.returncode == 0 and "lives" in done.stdout


def test_the_processes_that_build_a_frame_store_end_with_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(POOL)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)]) as parent:
        while len(pids := [int(f.stem) for f in tmp_path.glob("*.pid")]) < 2 and parent.poll() is None:
            time.sleep(0.05)
        assert all(_lives(pid) for pid in pids) and len(pids) == 2
        parent.kill()
    deadline = time.monotonic() + 30  # it takes milliseconds; without the signal it would take an hour
    while any(_lives(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_lives(pid) for pid in pids)


def _lives(pid: int) -> bool:
    """Neither gone nor a zombie that its new parent has not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
