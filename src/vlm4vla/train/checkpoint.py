"""Training state on disk: weights, optimizer and one integer. Written atomically, read without executing anything.

The loader's position and all randomness are functions of (seed, step), so the step is all there is to store. Beside it
stands what was done so far, for the record: nothing is computed from it.
"""

import os
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from vlm4vla import records
from vlm4vla.train.did import Did
from vlm4vla.types import refuse

_NAME = "state.pt"


def save(folder: Path, module: nn.Module, optimizer: Optimizer, step: int, config_hash: str, did: Did) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{_NAME}.part"
    state = {
        "step": step,
        "config_hash": config_hash,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "did": did.to_dict(),
    }
    try:
        with partial.open("wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(folder / _NAME)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise records.disk_error(folder / _NAME, cause) from error
        raise


def restore(folder: Path, module: nn.Module, optimizer: Optimizer, config_hash: str) -> tuple[int, Did]:
    """Load into ``module`` and ``optimizer``; returns the number of finished steps (0 without a checkpoint) and what
    they did.

    Refuses a checkpoint of another run, and one of before there were counts: nobody knows what its steps did.
    """
    file = folder / _NAME
    if not file.is_file():
        return 0, Did()
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["config_hash"] != config_hash:
        raise refuse(
            f"{file} belongs to a run with other settings (hash {state['config_hash']}, now {config_hash})",
            possible="the settings of that run, or another --out",
            todo="Choose a new --out folder; a run never changes its settings half-way.",
        )
    if "did" not in state:
        raise refuse(
            f"{file} is of an earlier version of vlm4vla, which did not note what its steps did",
            possible="a checkpoint with these counts: a run's record is made of them",
            todo="Finish the run with that version, or remove the file and train from the beginning.",
        )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), Did(**state["did"])


def remove(folder: Path) -> None:
    (folder / _NAME).unlink(missing_ok=True)
