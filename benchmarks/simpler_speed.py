"""SIMPLER: our environment, kept for all episodes of a task, against one made anew for each, as published.

    python benchmarks/simpler_speed.py [--task put-carrot-on-plate] [--rounds 5] [--steps 60]

Both sides are the same simulator in one process: the same start, the same actions, a picture after every step (and, as
a second figure, after every fourth, as a policy that executes four actions wants them). ``anew`` makes ManiSkill's own
environment, resets it to the episode and calls its ``step``; ``kept`` is ours. They take turns; the first round of each
fills caches and is left out. Printed are medians of steps per second of wall time, resets included, and their ratio.
"""

import argparse
import json
import statistics
import subprocess
import sys

from vlm4vla.bench import install

SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
import json, time
import numpy as np
from vlm4vla.bench.simpler.env import Benchmark
from vlm4vla.bench.simpler.tasks import TASKS
task, rounds, steps = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
bench = Benchmark()
ours = bench.make(task)
from vlm4vla.bench.simpler import simulator
theirs = getattr(simulator._scenes, TASKS[task].env)
starts = bench.episodes("eval", task, 24)
actions = np.random.default_rng(0).uniform(-1, 1, (steps, 7)).astype(np.float32) * bench.typical

def kept(k, every):
    ours.reset(starts[k % 24])
    for n, action in enumerate(actions):
        ours.step(action, render=n % every == every - 1)

def anew(k, every):
    simulator._twin._objects_to_remove_from_greenscreen, simulator._twin._rgb_overlay_images = [], {}
    env = theirs(obs_mode="rgb+segmentation", num_envs=1, sim_backend="cpu", render_backend="cpu")
    env.reset(options={"episode_id": simulator.torch.tensor([k % 24])})
    for action in actions:
        env.step(action)
    env.close()

ways = {"kept": (kept, 1), "kept, every 4th": (kept, 4), "anew": (anew, 1)}
rates = {name: [] for name in ways}
for k in range(rounds + 1):
    for name, (run, every) in ways.items():
        began = time.perf_counter()
        run(k, every)
        if k:
            rates[name].append(steps / (time.perf_counter() - began))
ours.close()
print(json.dumps({"versions": bench.versions(), "rates": rates}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="put-carrot-on-plate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    asked = parser.parse_args()
    words = [str(install.python_of("simpler")), "-I", "-c", SCRIPT, str(install.link_folder())]
    words += [asked.task, str(asked.rounds), str(asked.steps)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    medians = {name: statistics.median(values) for name, values in found["rates"].items()}
    print(", ".join(f"{name} {value}" for name, value in found["versions"].items()))
    for name, value in medians.items():
        spread = f"{min(found['rates'][name]):.1f} to {max(found['rates'][name]):.1f}"
        print(f"{name:16} {value:6.1f} steps/s ({spread}), {value / medians['anew']:.2f} x anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
