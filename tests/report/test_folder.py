"""A study folder is read strictly: what contradicts itself is refused, what is optional may be absent."""

import json
import shutil
from pathlib import Path

import pytest

from vlm4vla.records import Estimate, read_all, write_all
from vlm4vla.report.build import build
from vlm4vla.report.folder import load
from vlm4vla.types import UserError


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(study, tmp_path / "study"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_rows_of_the_table(study: Path) -> None:
    records = load(study)
    assert [(r.kind, r.name, r.label, len(r.rows)) for r in records.table] == [
        ("reference", "do-nothing", "do nothing", 75),
        ("reference", "expert", "scripted expert", 75),
        ("arm", "full", "Full fine-tuning", 75),
        ("control", "full [image-blank]", "Full fine-tuning (image-blank)", 36),
        ("control", "full [instruction-swapped]", "Full fine-tuning (instruction-swapped)", 36),
        ("arm", "frozen", "Vision frozen", 75),
    ]
    assert [records.title(c) for c in records.comparisons] == [
        "Full fine-tuning − Vision frozen",
        "Full fine-tuning − do nothing",
        "Full fine-tuning − same with image-blank",
        "Full fine-tuning − same with instruction-swapped",
    ]
    assert [len(t.metrics) for t in records.training] == [100, 100]
    assert records.audit is not None and records.audit.rows[-1].class_ == "declared"


def test_a_number_its_rows_do_not_bear_out_is_refused(copy: Path) -> None:
    path = copy / "estimates.jsonl"
    first, *others = read_all(path, Estimate)
    write_all(path, [first.model_copy(update={"successes": first.successes + 1}), *others])
    with pytest.raises(UserError, match=r"says 1 of 25, its rows say 0 of 25"):
        load(copy)


def test_another_version_of_the_benchmark_is_refused(copy: Path) -> None:
    edit(copy / "study.json", benchmark="metaworld@2")
    with pytest.raises(UserError, match=r"about metaworld@1, the study about metaworld@2"):
        load(copy)


def test_unknown_keys_and_missing_files_are_refused(copy: Path) -> None:
    with pytest.raises(UserError, match=r"No study\.json in"):
        load(copy / "eval-full")
    edit(copy / "study.json", extra=1)
    with pytest.raises(UserError, match=r"not valid: Extra inputs are not permitted at extra"):
        load(copy)


def test_rows_of_another_arm_are_refused(copy: Path) -> None:
    shutil.copy(copy / "eval-full/rows.jsonl", copy / "eval-frozen/rows.jsonl")
    with pytest.raises(UserError, match=r"does not hold the rows of 'frozen' \(found: \['full'\]\)"):
        load(copy)


def test_absolute_run_folders_are_refused(copy: Path) -> None:
    arms = json.loads((copy / "study.json").read_text())["arms"]
    edit(copy / "study.json", arms=[arms[0] | {"eval": str(copy / "eval-full")}, arms[1]])
    with pytest.raises(UserError, match="is absolute"):
        load(copy)


@pytest.mark.parametrize(
    "escape", ["../eval-frozen/videos/drawer-open-v3-0.mp4", "/etc/hostname", "videos/../../study.json"]
)
def test_a_video_path_that_leads_out_is_refused(copy: Path, tmp_path: Path, escape: str) -> None:
    path = copy / "eval-full/rows.jsonl"
    path.write_text(path.read_text().replace("videos/drawer-open-v3-0.mp4", escape))
    with pytest.raises(UserError, match="leads out of"):
        build(copy, tmp_path / "out")
