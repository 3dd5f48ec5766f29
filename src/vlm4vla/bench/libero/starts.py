"""Where episodes start: seeds of random placements, and the initial states that come with the benchmark."""

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlm4vla import safe_pickle
from vlm4vla.bench import common
from vlm4vla.bench.libero import protocol
from vlm4vla.types import Split


def start_seed(split: Split, task: str, index: int) -> int:
    """Seed of a start; ``eval`` starts are the benchmark's own states, so theirs is the state's index.

    Others are those of :func:`vlm4vla.bench.common.start_seed` with their highest bit set: never below ``EVAL_STARTS``.
    """
    if split == "eval":
        return index
    return common.start_seed(protocol.SEED_ENTROPY, split, task, index) | 1 << 52


def initial_states(file: Path) -> npt.NDArray[np.float64]:
    """The states (50, 1 + positions + velocities) of a ``.pruned_init`` file, which torch wrote; read without torch.

    The file is a zip with one pickle of a numpy array, which is taken apart and not executed.
    """
    with zipfile.ZipFile(file) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        # A pickle is a program; this reader has an allow-list of instructions and calls nothing of numpy's.
        states = np.asarray(safe_pickle.load(file, archive.read(name)), np.float64)
    assert states.ndim == 2 and len(states) == protocol.EVAL_STARTS, f"{file} holds {states.shape}"
    return states
