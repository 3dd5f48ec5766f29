"""A study folder is read strictly: what contradicts itself is refused, what is optional may be absent."""

import json
import shutil
from pathlib import Path

import pytest

from vlm4vla.records import Comparison, Estimate, Record, read_all, write_all
from vlm4vla.report import rates
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


def change(path: Path, cls: type[Record], n: int, **changes: object) -> None:
    found = read_all(path, cls)
    found[n] = found[n].model_copy(update=changes)
    write_all(path, found)


def test_a_rate_or_difference_that_its_rows_do_not_bear_out_is_refused(copy: Path) -> None:
    """Counts alone would let a mean pass that was made of other tasks, or mistyped."""
    first = load(copy).table[2].estimates[None]
    assert (first.arm, first.task) == ("full", None)
    estimates, comparisons = copy / "estimates.jsonl", copy / "comparisons.jsonl"
    place = read_all(estimates, Estimate).index(first)
    change(estimates, Estimate, place, rate=first.rate + 1e-6)
    with pytest.raises(UserError, match=r"of 'full' on all tasks says a mean of 0\.880001, its rows say 0\.88"):
        load(copy)
    estimates.write_text(estimates.read_text().replace(f'"rate":{first.rate + 1e-6}', '"rate":NaN'))
    with pytest.raises(UserError, match=r"says a mean of nan"):
        load(copy)
    change(estimates, Estimate, place, rate=first.rate + 1e-12)
    pair = read_all(comparisons, Comparison)[0]
    for changes, words in (
        ({"difference": 0.45}, r"of 'full' with 'frozen' says a difference of 0\.45, its rows say 0\.44"),
        ({"only_a": 40}, r"says 75 pairs, 40 for the first and \d+ for the second; its rows say 75, \d+ and"),
        ({"pairs": 74}, r"says 74 pairs"),
        ({"b": "nobody"}, r"of 'full' with 'nobody' has no rows"),
    ):
        change(comparisons, Comparison, 0, **changes)
        with pytest.raises(UserError, match=words):
            load(copy)
        change(comparisons, Comparison, 0, **pair.model_dump())
    load(copy)


def test_records_of_before_the_newest_fields_are_read(copy: Path) -> None:
    for name, field in (("estimates", "standard_error"), ("comparisons", "p_bh")):
        lines = [json.loads(line) for line in (copy / f"{name}.jsonl").read_text().splitlines()]
        assert all(field in line for line in lines)
        old = [{key: value for key, value in line.items() if key != field} for line in lines]
        (copy / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    found = load(copy)
    assert [c.p_bh for c in found.comparisons] == [None] * 4
    assert {line.bh for _, lines in rates.comparisons(found) for line in lines} == {"–"}


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
