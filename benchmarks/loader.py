"""What one core loads in a second: our frame store, and the paths that a user would otherwise take, on the same frames.

    python benchmarks/loader.py [--rounds 5] [--million]

Made-up 200 x 200 pictures (JPEG at 224: about the 16 kB of a rendered LIBERO picture), written as CALVIN's npz, as RLDS
shards, as an mp4 with a key frame every second frame (LeRobot's setting), and built into our stores at 224. Rates are
samples per second of CPU time of one process, medians over rounds in which the paths take turns; files are in the page
cache. ``--million`` adds the start-up with a store of a million rows, which takes minutes to build once.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))
import tfds_files  # the tests' own writer of RLDS folders

from vlm4vla import registry
from vlm4vla.backbones import loading
from vlm4vla.data.augment import draw
from vlm4vla.data.base import RawEpisode
from vlm4vla.data.batch import Samples
from vlm4vla.data.build import build
from vlm4vla.data.mixture import Mixture
from vlm4vla.data.order import BatchSampler
from vlm4vla.data.pictures import encode
from vlm4vla.data.readers import rlds
from vlm4vla.data.store import Store
from vlm4vla.data.video import VideoFrames
from vlm4vla.data.writers import calvin
from vlm4vla.schemas import AugmentConfig, BackboneConfig
from vlm4vla.types import ActionSpec, CameraSpec, Dimension, UserError

EPISODES, LENGTH, SOURCE, SIDE, CHUNK = 16, 64, 200, 224, 10
SHIFT = AugmentConfig(shift=10)
COLOUR = AugmentConfig(crop=0.9, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
ARM = tuple(Dimension(n, "1/50 m", "delta", "world", -1.0, 1.0) for n in ("x", "y", "z", "roll", "pitch", "yaw"))
SPEC = ActionSpec((*ARM, Dimension("gripper", "", "gripper", "hand", -1.0, 1.0)), "euler_xyz", 30.0)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(image).resize((size, size), PIL.Image.Resampling.BICUBIC))


class Made:
    """A reader of made-up episodes: smooth scenes with a fine grain, and blocks that move over them."""

    action_spec, state_names = SPEC, ()

    def __init__(self, episodes: int = EPISODES, length: int = LENGTH, size: int = SOURCE) -> None:
        self.episodes, self.length, self.size = episodes, length, size
        self.cameras = (CameraSpec("static", size, size),)

    def __len__(self) -> int:
        return self.episodes

    def digest(self) -> str:
        return f"made-{self.episodes}-{self.length}-{self.size}"

    def episode(self, index: int) -> RawEpisode:
        random = np.random.default_rng(index)
        size = self.size
        scene = resized(random.integers(30, 220, (9, 9, 3), dtype=np.uint8), size).astype(np.int16)
        scene = np.clip(scene + random.normal(0, 1.5, scene.shape).astype(np.int16), 0, 255).astype(np.uint8)
        images = np.repeat(scene[None], self.length, axis=0)
        side, start, speed = max(1, size // 12), random.integers(0, size, (6, 2)), random.integers(-3, 4, (6, 2))
        colours = random.integers(0, 256, (6, 3), dtype=np.uint8)
        for t, image in enumerate(images):
            for (y, x), colour in zip((start + t * speed) % max(1, size - side), colours, strict=True):
                image[y : y + side, x : x + side] = colour
        actions = random.uniform(-1, 1, (self.length, 7)).astype(np.float32)
        actions[:, 6] = np.sign(actions[:, 6])
        return RawEpisode("push the block", {"static": images}, actions, None, "push", index, {})


def shifted(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return draw(SHIFT, random)(image)


def write_calvin(root: Path) -> list[Path]:
    out = calvin.Writer(root, section={})
    for k in range(EPISODES):
        e = Made().episode(k)
        images = {**e.images, "gripper": np.stack([resized(image, 84) for image in e.images["static"]])}
        robot, scene = np.split(np.random.default_rng(k).uniform(-1, 1, (LENGTH, 39)), [15], axis=1)
        actions = e.actions.astype(float)
        out.stage(f"{k:04d}", calvin.Recording("push it", "push", "calvin_scene_A", images, actions, robot, scene))
    out.finish()
    return sorted((root / "training").glob("episode_*.npz"))


def write_rlds(root: Path) -> rlds.Reader:
    shards = []
    for k in range(EPISODES):
        e = Made().episode(k)
        shards.append(
            {
                "steps/action": e.actions.ravel().tolist(),
                "steps/is_first": [1] + [0] * (LENGTH - 1),
                "steps/language_instruction": [e.instruction.encode()] * LENGTH,
                "steps/observation/image": [encode(resized(image, SIDE), "jpeg") for image in e.images["static"]],
                "episode_metadata/file_path": [b"made"],
            }
        )
    features = tfds_files.layout({"image": tfds_files.image(SIDE, SIDE, 3)})
    (root.parent / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    return rlds.Reader(tfds_files.write(root, [shards], features), variant="plain", spec=root.parent / "spec.json")


def write_mp4(file: Path) -> VideoFrames:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "23", "g": "2"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for k in range(EPISODES):
            for image in Made().episode(k).images["static"]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(resized(image, SIDE), format="rgb24")))
        container.mux(stream.encode())
    return VideoFrames(file, np.arange(EPISODES * LENGTH) / 30, 30)


def paper_calvin(files: list[Path], resize: bool) -> Iterator[Any]:
    """As the paper's loader: a chunk and one frame more, 11 files, both cameras of each, of which one picture is used.

    Its five arrays are read, nothing else; with ``resize`` all 22 pictures also become 224 x 224, as there.
    """
    random = np.random.default_rng(0)
    keys = ("rgb_static", "rgb_gripper", "rel_actions", "robot_obs", "scene_obs")
    while True:
        first = random.integers(0, EPISODES) * LENGTH + random.integers(0, LENGTH - CHUNK)
        frames = [np.load(file) for file in files[first : first + CHUNK + 1]]
        arrays = {key: np.stack([frame[key] for frame in frames]) for key in keys}
        for frame in frames:
            frame.close()
        if resize:
            pictures = [[resized(image, SIDE) for image in arrays[key]] for key in keys[:2]]
            shifted(pictures[0][0], random)
        yield None


def stream_rlds(reader: rlds.Reader, places: int = 512) -> Iterator[Any]:
    """Episodes one after the other through a shuffle buffer of steps, decoded when they leave it."""
    random = np.random.default_rng(0)
    buffer: list[tuple[RawEpisode, int]] = []
    while True:
        for k in random.permutation(len(reader)):
            episode = reader.episode(int(k))
            for t in range(episode.length):
                buffer.append((episode, t))
                if len(buffer) > places:
                    at = int(random.integers(places))
                    buffer[at], buffer[-1] = buffer[-1], buffer[at]
                    drawn, step = buffer.pop()
                    yield shifted(drawn.images["image"][step], random), drawn.actions[step : step + CHUNK]


def random_mp4(frames: VideoFrames) -> Iterator[Any]:
    random = np.random.default_rng(0)
    while True:
        yield shifted(frames[int(random.integers(len(frames)))], random)


def ours(store: Store, augment: AugmentConfig) -> Iterator[Any]:
    samples = samples_of(store, augment)
    for batch in BatchSampler(samples.order(), 32):
        yield from (samples[key] for key in batch)


def samples_of(store: Store, augment: AugmentConfig) -> Samples:
    return Samples(Mixture([store], [1.0]), CHUNK, ("static",), augment, 0)


def rates(paths: dict[str, Iterator[Any]], rounds: int, seconds: float) -> dict[str, float]:
    """Median samples per CPU second of each path; the paths take turns."""
    found: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + 1):  # the first round fills caches
        for name, path in paths.items():
            count, began = 0, time.process_time()
            while time.process_time() - began < seconds or count < 2:
                next(path)
                count += 1
            if number:
                found[name].append(count / (time.process_time() - began))
    return {name: statistics.median(values) for name, values in found.items()}


def prepare(rounds: int) -> dict[str, float]:
    """ms per picture of ``backbone.prepare`` at 224, for every family whose tiny preset takes that size."""
    out = {}
    image = resized(Made().episode(0).images["static"][0], SIDE)
    for name in registry.names("backbones"):
        config = BackboneConfig(family=name, checkpoint="preset:tiny", init="scratch", image_size=SIDE)
        try:
            processor = loading.load(config, queries=1, seed=0).processor
        except UserError:  # a fixed size of its own
            continue

        calls = (processor.prepare([image], "push the block") for _ in itertools.repeat(None))
        out[name] = 1000 / rates({name: calls}, rounds, 0.2)[name]
    return out


def anonymous_memory(store: Store, workers: int = 2) -> list[list[float]]:
    """MiB of anonymous memory of each loader process after each of three epochs."""
    samples = samples_of(store, COLOUR)
    options: Any = {"batch_sampler": BatchSampler(samples.order(), 32), "num_workers": workers, "collate_fn": len}
    loader = torch.utils.data.DataLoader(samples, **options)
    out: list[list[float]] = []
    for step, _ in enumerate(loader, 1):
        if step % (len(samples) // 32) == 0:
            texts = [Path(f"/proc/{p.pid}/status").read_text() for p in multiprocessing.active_children()]
            out.append([int(t.split("RssAnon:")[1].split()[0]) / 1024 for t in texts])
        if len(out) == 3:
            return out
    raise AssertionError("the order is endless")


def start_up(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds to open a store of a million rows (tiny pictures) and to load a first batch, without the imports."""
    store = build(Made(15_625, 64, 8), folder, 8, "raw", progress=True, workers=2)
    script = f"""
import time
from pathlib import Path
from vlm4vla.data.batch import Samples
from vlm4vla.data.mixture import Mixture
from vlm4vla.data.order import BatchSampler
from vlm4vla.data.store import Store
from vlm4vla.schemas import AugmentConfig
began = time.perf_counter()
store = Store.open(Path({str(folder)!r}))
opened = time.perf_counter()
samples = Samples(Mixture([store], [1.0]), {CHUNK}, ("static",), AugmentConfig(), 0)
[samples[key] for key in BatchSampler(samples.order(), 32).at(0)]
print(opened - began, time.perf_counter() - began)
"""
    runs = [subprocess.run([sys.executable, "-c", script], check=True, capture_output=True) for _ in range(rounds)]
    opened, ready = (statistics.median(float(r.stdout.split()[k]) for r in runs) for k in (0, 1))
    return {"rows": len(store), "open_s": opened, "first_batch_s": ready}


def tables(work: Path, rounds: int, million: bool) -> None:
    stores = {e: build(Made(), work / e, SIDE, e) for e in ("jpeg", "png", "raw")}  # type: ignore[arg-type]
    paths = {f"store, {encoding}, decoded and shifted": ours(store, SHIFT) for encoding, store in stores.items()}
    paths["store, jpeg, decoded only"] = ours(stores["jpeg"], AugmentConfig())
    paths["store, jpeg, crop and full colour jitter"] = ours(stores["jpeg"], COLOUR)
    npz = write_calvin(work / "calvin")
    paths["CALVIN npz, 11 files"] = paper_calvin(npz, resize=False)
    paths["CALVIN npz, 11 files, 22 pictures to 224"] = paper_calvin(npz, resize=True)
    paths["RLDS, streamed through a shuffle buffer of 512"] = stream_rlds(write_rlds(work / "rlds"))
    paths["mp4, random access"] = random_mp4(write_mp4(work / "frames.mp4"))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.2f}")
    found = rates(paths, rounds, 1.0)
    print("\n| path | samples per core and second | store (jpeg, shifted) is faster by |\n|---|---|---|")
    for name, rate in found.items():
        print(f"| {name} | {rate:,.0f} | {found['store, jpeg, decoded and shifted'] / rate:.1f} |")
    print("\n| prepare at 224 | ms per picture |\n|---|---|")
    for name, milliseconds in prepare(rounds).items():
        print(f"| {name} | {milliseconds:.3f} |")
    print("\n| measure | value |\n|---|---|")
    bare = sum(len(stores["jpeg"]._pictures["static"][i]["image.static"]) for i in range(len(stores["jpeg"])))
    print(f"| JPEG bytes per picture | {bare / len(stores['jpeg']):,.0f} |")
    whole = sum(file.stat().st_size for file in (work / "jpeg").rglob("*") if file.is_file())
    print(f"| store / JPEG bytes | {whole / bare:.3f} |")
    for epoch, values in enumerate(anonymous_memory(stores["jpeg"]), 1):
        print(f"| workers' anonymous memory after epoch {epoch}, MiB | {', '.join(f'{v:.1f}' for v in values)} |")
    if million:
        for name, value in start_up(work / "million", rounds).items():
            print(f"| start-up: {name} | {value:,.2f} |")
    print(f"\nload after {os.getloadavg()[0]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--million", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tables(Path(folder), a.rounds, a.million)


if __name__ == "__main__":
    main()
