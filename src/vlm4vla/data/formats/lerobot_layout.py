"""The LeRobot v3.0 layout: names of files and columns, shared by its reader and its writer.

Source: ``lerobot/datasets/utils.py`` and ``lerobot_dataset.py`` of huggingface/lerobot 0.4.4. Everything that only
we know (action spec, state names, per-episode task and seed) stands in the section ``vlm4vla`` of ``meta/info.json``.
"""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from vlm4vla.types import ActionSpec, CameraSpec

VERSION = "v3.0"
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
SECTION = "vlm4vla"
SECTION_VERSION = 1

ACTION = "action"
STATE = "observation.state"
IMAGES = "observation.images."
CHUNK_FILES = 1000  # files per chunk folder
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = dict[str, npt.NDArray[Any]]


def features(
    spec: ActionSpec, cameras: tuple[CameraSpec, ...], state_names: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """The ``features`` of info.json for a data set with pictures inside its tables."""
    out: dict[str, dict[str, Any]] = {}
    for c in cameras:
        names = ["height", "width", "channels"]
        out[IMAGES + c.name] = {"dtype": "image", "shape": [c.height, c.width, 3], "names": names}
    if state_names:
        out[STATE] = {"dtype": "float32", "shape": [len(state_names)], "names": list(state_names)}
    out[ACTION] = {"dtype": "float32", "shape": [spec.size], "names": [d.name for d in spec.dimensions]}
    out["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        out[name] = {"dtype": "int64", "shape": [1], "names": None}
    return out


def columns(described: Mapping[str, Mapping[str, Any]]) -> datasets.Features:
    """The same as typed columns; a vector of one number is a plain number there, as LeRobot has it."""
    out: dict[str, Any] = {}
    for name, feature in described.items():
        if feature["dtype"] == "image":
            out[name] = datasets.Image()
        elif feature["shape"] == [1]:
            out[name] = datasets.Value(feature["dtype"])
        else:
            out[name] = datasets.List(datasets.Value(feature["dtype"]), length=feature["shape"][0])
    return datasets.Features(out)


def vector_stats(values: npt.NDArray[Any]) -> Stats:
    """Statistics of (N, D) numbers: (D,) each, and the count as (1,)."""
    exact = values.astype(np.float64)
    out: Stats = {"min": exact.min(0), "max": exact.max(0), "mean": exact.mean(0), "std": exact.std(0)}
    out["count"] = np.array([len(values)])
    for name, q in _QUANTILES.items():
        out[name] = np.quantile(exact, q, axis=0)
    return out


def image_histogram(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Counts (3, 256) of the values of each channel of (N, H, W, 3) pictures."""
    return np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(3)])


def image_stats(histogram: npt.NDArray[np.int64], frames: int) -> Stats:
    """Statistics of pictures scaled to 0..1, (3, 1, 1) each as LeRobot has them, and the number of frames as (1,)."""
    levels = np.arange(256) / 255.0
    total = histogram.sum(1, keepdims=True)
    mean = (histogram * levels).sum(1, keepdims=True) / total
    variance = (histogram * (levels - mean) ** 2).sum(1, keepdims=True) / total
    cumulative = histogram.cumsum(1)
    out: Stats = {
        "min": levels[(histogram > 0).argmax(1)],
        "max": levels[255 - (histogram[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt(variance),
    }
    for name, q in _QUANTILES.items():
        out[name] = levels[(cumulative >= q * total).argmax(1)]
    out = {name: value.reshape(3, 1, 1) for name, value in out.items()}
    out["count"] = np.array([frames])
    return out
