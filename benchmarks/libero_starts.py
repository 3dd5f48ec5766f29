"""What moves while LIBERO's published starts settle, task by task: what the bounds of the protocol rest on.

    python benchmarks/libero_starts.py [--suites libero_object libero_spatial libero_goal libero_10] [--pictures FOLDER]

Every one of a task's 50 initial states is put in place and settles as in an evaluation; a task runs in a process of its
own. Printed are the largest rise, the largest fall and the largest way sideways of any object (m), with the number of
the state, and how many states the protocol's bounds refuse. ``--pictures`` keeps what both cameras see of state 0.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SUITES = ("libero_object", "libero_spatial", "libero_goal", "libero_10")
WAYS = ("up", "down", "aside")


def inside(task: str, pictures: str) -> dict[str, Any]:
    """In the simulator's environment: rise, fall and way sideways of all starts of one task."""
    from vlm4vla.bench.libero.env import Benchmark
    from vlm4vla.bench.libero.sim import PandaEnv
    from vlm4vla.types import RunFailed

    class Watched(PandaEnv):
        moved: np.ndarray

        def _settle(self) -> Any:
            before = self.objects()
            found = super()._settle()
            self.moved = np.array([at - before[name] for name, at in self.objects().items()])
            return found

    bench = Benchmark()
    env = Watched(task, bench.action_spec, bench.cameras, bench._variant)
    ways, refused = [], []
    for episode in bench.episodes("eval", task, 50):
        try:
            first = env.reset(episode, render=bool(pictures) and episode.index == 0)
        except RunFailed as problem:
            refused.append(str(problem))
        else:
            if first.observation is not None:
                from PIL import Image

                both = np.concatenate(list(first.observation.images.values()), axis=1)
                Image.fromarray(both).save(Path(pictures) / f"{task}.png")
        ways.append((env.moved[:, 2].max(), -env.moved[:, 2].min(), np.hypot(*env.moved[:, :2].T).max()))
    table = np.array(ways)
    largest = {way: (float(table[:, i].max()), int(table[:, i].argmax())) for i, way in enumerate(WAYS)}
    return {"starts": len(ways), "refused": refused, **largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=SUITES)
    parser.add_argument("--pictures", default="", help="folder for state 0 of each task")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        sys.path.insert(0, given.inside[0])
        print(json.dumps(inside(given.inside[1], given.pictures)))
        sys.stdout.flush()
        os._exit(0)
    from vlm4vla.bench import install
    from vlm4vla.bench.libero.tasks import SUITES as TASKS

    if given.pictures:
        Path(given.pictures).mkdir(parents=True, exist_ok=True)
    starts = refused = 0
    for suite in given.suites:
        for task in TASKS[suite]:
            words = [str(install.python_of("libero")), "-I", __file__, "--inside", str(install.link_folder()), task]
            words += ["--pictures", str(Path(given.pictures).resolve())] if given.pictures else []
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            starts, refused = starts + found["starts"], refused + len(found["refused"])
            ways = ", ".join(f"{way} {found[way][0]:.3f} m (state {found[way][1]})" for way in WAYS)
            print(f"{suite} {task}: {ways}; {len(found['refused'])} of {found['starts']} refused", flush=True)
            for sentence in found["refused"]:
                print(f"    {sentence}", flush=True)
    print(f"{refused} of {starts} starts refused")


if __name__ == "__main__":
    main()
