"""A build that is killed twenty times at random moments ends in the very store of an uninterrupted one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import calvin_data

from vlm4vla.data import build
from vlm4vla.data.readers.calvin import Reader
from vlm4vla.data.store import MANIFEST, Store

KILLS = 20
EPISODES = 72  # nine groups of eight
SCRIPT = """
import sys
from pathlib import Path
from vlm4vla.data import build
from vlm4vla.data.readers.calvin import Reader
if __name__ == "__main__":
    print("begun", flush=True)
    build.build(Reader(Path(sys.argv[1])), Path(sys.argv[2]), 224, "jpeg", workers=int(sys.argv[3]))
"""


def test_killed_twenty_times_the_store_is_the_same(tmp_path: Path) -> None:
    calvin_data.dataset(tmp_path / "calvin", lengths=[5 + n % 4 for n in range(EPISODES)])
    script = tmp_path / "build.py"
    script.write_text(SCRIPT)
    whole = build.build(Reader(tmp_path / "calvin"), tmp_path / "whole", 224, "jpeg")
    dice, kills, done, out = random.Random(4), 0, 0, tmp_path / "killed"
    longest = 1.0
    while kills < KILLS:
        command = [sys.executable, str(script), str(tmp_path / "calvin"), str(out), str(1 + kills % 2)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        try:
            process.wait(dice.uniform(0.0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        groups = len(list((out / "groups").glob("*.json"))) if (out / "groups").is_dir() else 0
        assert groups >= done or (out / MANIFEST).is_file(), "a finished group was lost"
        done = groups
        if (out / MANIFEST).is_file():  # finished before its kill: the next ones go on in a new folder
            assert Store.open(out).digest == whole.digest
            out, done = tmp_path / f"killed-{kills}", 0
    time.sleep(1.0)  # its worker processes die with it, within a moment
    last = build.build(Reader(tmp_path / "calvin"), out, 224, "jpeg", workers=2)
    assert last.digest == whole.digest
    last.verify()
    files = {f.relative_to(out): f.read_bytes() for f in sorted(out.rglob("*.arrow"))}
    assert files == {f.relative_to(whole.path): f.read_bytes() for f in sorted(whole.path.rglob("*.arrow"))}
    assert (out / "episodes.jsonl").read_bytes() == (whole.path / "episodes.jsonl").read_bytes()
