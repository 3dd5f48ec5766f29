"""Records survive kills and full disks: torn lines are dropped, faults are named, writes are whole or absent."""

import errno
import os
from pathlib import Path

import pytest
import torch

from vlm4vla import provenance, records
from vlm4vla.records import EpisodeRow
from vlm4vla.types import RunFailed, UserError


def row(episode: int = 0) -> EpisodeRow:
    return EpisodeRow(
        run="r", arm="a", control=None, benchmark="b-v1", task="t", episode=episode, seed=1, success=True, steps=3,
        first_success_step=3, failure=None, video=None, wall_s=0.1,
    )  # fmt: skip


def test_append_and_read(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "rows.jsonl"
    for i in range(3):
        records.append(file, row(i))
    assert records.read_all(file, EpisodeRow) == [row(0), row(1), row(2)]
    assert records.read_all(tmp_path / "none.jsonl", EpisodeRow) == []


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_dropped_and_healed(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "rows.jsonl"
    records.append(file, row(0))
    records.append(file, row(1))
    data = file.read_bytes()
    file.write_bytes(data[:-cut])
    assert records.read_all(file, EpisodeRow) == [row(0)]
    records.append(file, row(2))
    assert records.read_all(file, EpisodeRow) == [row(0), row(2)]


def test_a_line_that_is_no_row_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    records.append(file, row())
    file.write_text(file.read_text() + '{"arm": 1}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:2 is not a valid EpisodeRow"):
        records.read_all(file, EpisodeRow)


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(row().model_dump_json()[:-1] + ',"score":1}\n')
    with pytest.raises(UserError, match="score"):
        records.read_all(file, EpisodeRow)


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    records.write_atomic(file, "old")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match=r"the disk is full \(\d+\.\d MiB are free in .*\)"):
        records.write_atomic(file, "new")
    with pytest.raises(RunFailed, match="goes on where it stopped"):
        records.append(tmp_path / "rows.jsonl", row())
    assert file.read_text() == "old" and not list(tmp_path.glob(".*part"))


def test_provenance_is_found_here() -> None:
    commit, dirty = provenance.source_state()
    assert commit is None or (len(commit) == 40 and dirty is not None)
    assert provenance.package_versions(["numpy", "no-such-package"])["no-such-package"] == "absent"
    assert provenance.hardware()["cores"] >= 1


def test_one_code_has_one_name() -> None:
    assert provenance.source(None, None) == "not from a checkout"
    assert provenance.source("c", False) == "c" != provenance.source("c", True)


def test_a_gpu_is_recorded_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.device(torch.device("cpu")) == {"device": "cpu"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Example GPU {device.index}")
    assert provenance.device(torch.device("cuda", 1)) == {"device": "cuda:1", "gpu": "Example GPU 1"}
