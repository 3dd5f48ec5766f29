"""Builds a frame store from a reader: in groups of episodes, resumably, with the same result in any order."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlm4vla.data import columns
from vlm4vla.data import store as layout
from vlm4vla.data.base import Frames, RawEpisode, Reader
from vlm4vla.data.pictures import ENCODINGS, FILTER, EncodedFrames, Encoding, encode, resize
from vlm4vla.data.progress import bar
from vlm4vla.data.statistics import Statistics
from vlm4vla.data.store import EpisodeEntry, Store
from vlm4vla.processes import die_with_parent
from vlm4vla.records import disk_error, locked, write_atomic
from vlm4vla.types import CameraSpec, refuse

_BATCH = 256  # frames per Arrow record batch at most: a batch holds less than 2 GiB of raw pictures up to 1,600 px
_MAX_GROUPS = 128  # opening one costs about 2 ms
_MIN_GROUP = 8  # episodes


@dataclass(frozen=True)
class _Job:
    """One group: episodes ``first`` .. ``last - 1`` of the reader."""

    reader: Reader
    out: Path
    name: str
    first: int
    last: int
    cameras: tuple[CameraSpec, ...]
    encoding: Encoding


def build(
    reader: Reader,
    out: Path,
    image_size: int,
    encoding: Encoding,
    progress: bool = False,
    workers: int = 1,
    origin: Mapping[str, Any] | None = None,
) -> Store:
    """Build the store of ``reader`` in ``out``, or go on where a killed build stopped, or return the finished one.

    Pictures become (image_size, image_size, 3), by Pillow's bicubic filter where they differ in size; those of equal
    size keep every byte. Refuses a folder that was begun from another source or with other settings. ``origin``: the
    reader's name and options, for the record (:func:`vlm4vla.data.base.open_with_origin`).
    """
    if image_size < 1:
        raise refuse(f"Picture size {image_size} was given", possible="1 pixel and more", todo="Change --image-size.")
    if len(reader) == 0:
        raise refuse("The data set has no episodes", possible="one and more", todo="Check the folder and the options.")
    if encoding not in ENCODINGS:
        raise refuse(f"Unknown encoding {encoding!r}", given=encoding, possible=ENCODINGS, todo="Choose one of these.")
    cameras = tuple(CameraSpec(c.name, image_size, image_size) for c in reader.cameras)
    plan: dict[str, Any] = {
        "version": layout.VERSION,
        "source": reader.digest(),
        "action_spec": reader.action_spec.to_dict(),
        "state_names": list(reader.state_names),
        "source_cameras": [asdict(c) for c in reader.cameras],
        "cameras": [asdict(c) for c in cameras],
        "encoding": encoding,
        "image_filter": FILTER,
        "code": code(),
    }
    if origin is not None:
        plan["reader"] = dict(origin)
    plan = json.loads(json.dumps(plan))  # as it will be read back: lists for tuples
    with locked(out):
        if not _begun(out, plan):
            jobs = list(_jobs(reader, out, cameras, encoding))
            _finish(out, plan, _run(jobs, len(reader), progress, workers))
    return Store.open(out)


def code() -> str:
    """Hash of the sources of this room: what a reader makes of a data set depends on them."""
    whole = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        whole.update(file.read_bytes())
    return whole.hexdigest()[:12]


def _begun(out: Path, plan: dict[str, Any]) -> bool:
    """Whether ``out`` holds the finished store of this plan; else stake out the folder. Refuses other contents."""
    manifest = layout.read_manifest(out)
    file = out / "plan.json"
    if manifest is None and not file.is_file():
        write_atomic(file, json.dumps(plan, indent=1))
        return False
    found = manifest["provenance"] if manifest is not None else json.loads(file.read_text())
    # How the reader was asked is for the record: the source's digest covers what it gives. A finished store stays what
    # it is when the code moves on; half of one must not be of other code.
    free = {"reader"} if manifest is None else {"reader", "code"}
    differing = sorted(key for key in plan.keys() - free if key not in found or found[key] != plan[key])
    if differing:
        raise refuse(
            f"{out} holds another store (different: {', '.join(differing)})",
            possible="an empty folder, or the store of the same source with the same settings",
            todo="Remove the folder to build it anew, or choose another --out.",
        )
    return manifest is not None


def _jobs(reader: Reader, out: Path, cameras: tuple[CameraSpec, ...], encoding: Encoding) -> Iterator[_Job]:
    """Groups of a size that depends on the number of episodes only."""
    least = _MIN_GROUP if len(reader) >= _MAX_GROUPS // 2 else 1  # few episodes are long ones
    size = max(least, -(-len(reader) // _MAX_GROUPS))
    for number, first in enumerate(range(0, len(reader), size)):
        last = min(first + size, len(reader))
        yield _Job(reader, out, f"group-{number:05d}", first, last, cameras, encoding)


def _run(jobs: list[_Job], episodes: int, progress: bool, workers: int) -> list[dict[str, Any]]:
    """The descriptions of all groups, in order; groups that a former run finished are not made again."""
    found = {job.name: _done(job) for job in jobs}
    missing = [job for job in jobs if found[job.name] is None]
    done = episodes - sum(job.last - job.first for job in missing)
    with bar("frame store", episodes, progress, done) as advance, _mapper(min(workers, len(missing))) as mapped:
        for job, description in zip(missing, mapped(missing), strict=True):
            found[job.name] = description
            for _ in range(job.last - job.first):
                advance()
    return [d for d in found.values() if d is not None]


@contextmanager
def _mapper(workers: int) -> Iterator[Any]:
    if workers <= 1:
        yield lambda jobs: map(_group, jobs)
        return
    # spawn: the caller may hold threads (Arrow, torch), which do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=die_with_parent, initargs=(os.getpid(),)) as pool:
        try:
            yield lambda jobs: pool.map(_group, jobs)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _description(job: _Job) -> Path:
    return job.out / "groups" / f"{job.name}.json"


def _done(job: _Job) -> dict[str, Any] | None:
    file = _description(job)
    if not file.is_file():
        return None
    description: dict[str, Any] = json.loads(file.read_text())
    data = job.out / description["file"]
    same = (description["first"], description["last"]) == (job.first, job.last)
    return description if same and data.is_file() and data.stat().st_size == description["bytes"] else None


def _group(job: _Job) -> dict[str, Any]:
    """Write one group's Arrow file, then its description: whoever finds the description may trust the file."""
    folder = job.out / "groups"
    final = folder / f"{job.name}.arrow"
    partial = folder / f".{job.name}.{os.getpid()}.part"
    episodes: list[dict[str, Any]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as f:
            writer: pa.ipc.RecordBatchStreamWriter | None = None
            for index in range(job.first, job.last):
                episode = job.reader.episode(index)
                content = hashlib.sha256()
                for table in _tables(episode, index, job, content):
                    writer = pa.ipc.new_stream(f, table.schema) if writer is None else writer
                    writer.write_table(table)
                episodes.append(
                    {
                        "length": episode.length,
                        "instruction": episode.instruction,
                        "task": episode.task,
                        "source": episode.source,
                        "info": dict(episode.info),
                        "sha256": content.hexdigest(),
                    }
                )
            assert writer is not None, "an empty group"
            writer.close()
            f.flush()
            os.fsync(f.fileno())
        partial.replace(final)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise disk_error(final, error) from error
    description = {
        "first": job.first,
        "last": job.last,
        "file": f"groups/{final.name}",
        "sha256": layout.sha256(final),
        "bytes": final.stat().st_size,
        "episodes": episodes,
    }
    write_atomic(_description(job), json.dumps(description))
    return description


def _tables(episode: RawEpisode, index: int, job: _Job, content: Any) -> Iterator[pa.Table]:
    """The rows of one episode in slices, so that a long recording is never whole in memory; hashed into ``content``."""
    content.update(json.dumps([episode.instruction, episode.task, episode.length]).encode())
    pictures = {c.name: _pictures(episode.images[c.name], c, job.encoding) for c in job.cameras}
    for start in range(0, episode.length, _BATCH):
        frames = range(start, min(start + _BATCH, episode.length))
        part = slice(frames.start, frames.stop)
        cells: dict[str, pa.Array] = {
            "episode": pa.array(np.full(len(frames), index, np.int64)),
            "frame": pa.array(np.asarray(frames, dtype=np.int64)),
        }
        for name, encoded in pictures.items():
            taken = list(islice(encoded, len(frames)))
            cells[layout.IMAGE + name] = pa.array(taken, type=pa.binary())
            for data in taken:
                content.update(data)
        cells["action"] = columns.to_arrow(episode.actions[part])
        content.update(episode.actions[part].tobytes())
        if episode.states is not None:
            cells["state"] = columns.to_arrow(episode.states[part])
            content.update(episode.states[part].tobytes())
        yield pa.table(cells)


def _pictures(frames: Frames, camera: CameraSpec, encoding: Encoding) -> Iterator[bytes]:
    """Encoded pictures of the camera's size. PNG bytes that have the right size already are passed on untouched."""
    if encoding == "png" and isinstance(frames, EncodedFrames) and frames.are_png(camera.height, camera.width):
        return iter(frames.encoded)
    return (encode(resize(image, camera.height, camera.width), encoding) for image in frames)


def _finish(out: Path, plan: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
    """Write the index of episodes and the manifest, then tidy up."""
    entries: list[EpisodeEntry] = []
    hashes: list[str] = []
    start = 0
    for description in groups:
        for e in description["episodes"]:
            texts = e["instruction"], e["task"], e["source"], e["info"]
            entry = EpisodeEntry(len(entries), start, e["length"], *texts)
            entries.append(entry)
            hashes.append(e["sha256"])
            start += entry.length
    index = "".join(json.dumps(asdict(entry), allow_nan=False) + "\n" for entry in entries)
    write_atomic(out / layout.EPISODES, index)
    table = layout.open_groups(out / g["file"] for g in groups)
    actions = columns.to_numpy(table.data.column("action"))
    identity = {key: plan[key] for key in ("version", "action_spec", "state_names", "cameras", "encoding")}
    text = json.dumps({**identity, "episodes": hashes}, sort_keys=True)
    manifest = {
        **identity,
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "frames": start,
        "groups": [{key: g[key] for key in ("file", "sha256", "bytes")} for g in groups],
        "index": {"file": layout.EPISODES, "sha256": hashlib.sha256(index.encode()).hexdigest()},
        "statistics": Statistics.of(actions).to_dict(),
        "provenance": dict(plan),
    }
    write_atomic(out / layout.MANIFEST, json.dumps(manifest, indent=1))
    (out / "plan.json").unlink(missing_ok=True)
    for file in (out / "groups").iterdir():
        if file.suffix != ".arrow":
            file.unlink()
