"""Where episodes start: seeds of random placements, and the initial states that come with the benchmark."""

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.bench.libero import protocol
from vlm4vla.types import SPLITS, Split

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}


def start_seed(split: Split, task: str, index: int) -> int:
    """Seed of a start; ``eval`` starts are the benchmark's own states, so theirs is the state's index.

    Others are 53 bits (exact in every JSON reader) from numpy's SeedSequence, never below ``EVAL_STARTS``. The spawn
    keys of the splits are disjoint; the task enters by the CRC of its name, so a list does not move when tasks are
    added.
    """
    if split == "eval":
        return index
    key = (SPLITS.index(split), zlib.crc32(task.encode()), index)
    words = np.random.SeedSequence(protocol.SEED_ENTROPY, spawn_key=key).generate_state(1, np.uint64)
    return (int(words[0]) >> 11) | 1 << 52


def initial_states(file: Path) -> npt.NDArray[np.float64]:
    """The states (50, 1 + positions + velocities) of a ``.pruned_init`` file, which torch wrote; read without torch.

    The file is a zip with one pickle of a numpy array; nothing but what such an array needs is unpickled.
    """
    with zipfile.ZipFile(file) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        states = np.asarray(_Arrays(io.BytesIO(archive.read(name))).load(), np.float64)
    assert states.ndim == 2 and len(states) == protocol.EVAL_STARTS, f"{file} holds {states.shape}"
    return states


class _Arrays(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} has no place in a list of states")
        return super().find_class(*_ALLOWED[module_name, global_name])
