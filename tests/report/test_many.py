"""Many arms: what is counted instead of told, folded instead of shown, and left to the episode browser."""

import json
import re
from pathlib import Path

import pytest
from big_study import make_big_study

from vlm4vla.records import Comparison
from vlm4vla.report import answer, audited, browser, figures, rates, sentences, videos, view
from vlm4vla.report.build import build
from vlm4vla.report.folder import AuditRow, Study, StudyFile, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("many")
    return make_big_study(made, recipes_=9, seeds=3, steps=200, videos=True)


@pytest.fixture(scope="module")
def records(folder: Path) -> Study:
    return load(folder)


def test_many_sentences_are_counted(records: Study) -> None:
    found = answer.answer(records)
    leader, pairs, largest = (said.text for said in found.verdicts)
    best = max(records.recipes, key=lambda e: e.rate)
    rest = [c for c in records.comparisons if c.estimand == "E3" and best.arm in (c.a, c.b)]
    undecided = sum(sentences.verdict(c) in ("undecided", "equal") for c in rest)
    assert leader.startswith(f"{records.labels[best.arm]} has the highest rate; {undecided} of the 8 others cannot")
    ends = [sentences.verdict(c) for c in records.comparisons if c.estimand == "E3"]
    differ = ends.count("better") + ends.count("worse")
    assert pairs.startswith(f"Of 36 pairs of arms {differ} differ") and "3 training runs each" in largest
    floor = next(said.text for said in found.scale if "27 checkpoints" in said.text)
    better = sum(sentences.verdict(c) == "better" for c in records.comparisons if c.b == "do-nothing")
    assert floor.startswith(f"{better} of 27 checkpoints did better than do nothing")
    assert len(found.rates) == len(found.controls) == 1 and "the same under image-blank" in found.controls[0].text


def test_long_tables_are_folded_and_grouped(records: Study) -> None:
    parts = {part.title: part for part in rates.table(records)}
    assert [part.folded for part in parts.values()] == [False, True, True]
    groups = parts["Arms"].groups
    assert [title for title, _ in groups] == [f"VLM {r:02d}, 2B" for r in range(9)]
    assert {len(lines) for _, lines in groups} == {3} and parts["Arms"].count == 27
    titles = [title for title, _ in rates.comparisons(records)]
    assert titles == ["Arms", "Against a reference", "Against the same under a control"]
    sizes = [abs(float(c.difference.replace("−", "-"))) for c in rates.comparisons(records)[0][1]]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 36
    drawn = rates.shown(records, figures.PAIRS)
    assert len(drawn) == figures.PAIRS and {c.estimand for c in drawn} == {"E3"}


def test_the_same_parameters_stand_there_once(records: Study) -> None:
    lines = view.parameters(records)
    assert len(lines) == 9 * 6 and lines[0].arm == "VLM 00, 2B" and sum(line.is_sum for line in lines) == 9


def test_an_arm_whose_runs_differ_is_said_so(records: Study) -> None:
    differing, equal = audited.audit(records)
    lines = {line.setting: line for line in differing}
    assert lines["recorded.precision"].verdict == "fault"
    assert lines["recorded.precision"].holders[1] == ("fp32", "VLM 08, 2B, seed 2")
    checkpoint = lines["policy.backbone.checkpoint"]
    assert checkpoint.verdict == "factor" and checkpoint.values[3] == "hub/vlm03-2b"  # settings name the recipe
    own = "bf16 (VLM 08, 2B, seed 0, VLM 08, 2B, seed 1); fp32 (VLM 08, 2B, seed 2)"
    assert lines["recorded.precision"].values[8] == own
    assert len(equal) == 70 and all(line.holders[0][1] == "" and "–" not in line.values for line in equal)


def test_a_value_that_an_arm_does_not_have_is_a_dash() -> None:
    told = {"class": "declared", "setting": "x", "values": {"a": 1}, "differs": False, "allowed": True, "reason": None}
    row = AuditRow.model_validate(told)
    shown = [audited.Column(name, name, ((name, name),)) for name in ("a", "b")]
    assert audited.audit_line(row, shown, "f").values == ["1", "–"]


def test_the_grid_shows_some_and_the_browser_all(folder: Path, records: Study, tmp_path: Path) -> None:
    found = videos.collect(records, tmp_path, 20_000)
    assert len(found.clips) == 45 == len({(clip.arm, clip.task) for clip in found.clips})
    assert {clip.arm.rsplit(", ", 1)[1] for clip in found.clips} == {"seed 0"}
    assert "Here 45 of 135 such clips: the first training run of each arm, the first 5 of 5 tasks" in found.note
    data = browser.data(records, found)
    recorded = [place for place in data["columns"]["video"] if place is not None]
    assert len(recorded) == 27 * 5 and set(recorded) <= set(range(len(found.sources))) and "" not in found.sources
    beside = [s for s in found.sources if s.startswith("videos/")]
    assert beside and all((tmp_path / s).is_file() for s in beside) and found.copied >= len(beside)
    assert videos.collect(records, tmp_path, 20_000) == found  # a second build finds its copies


def test_markdown_tells_how_much_it_leaves_out(folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Arms: 27 more lines are in [index.html]" in text and "The first 40 of 56 runs." in text
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_numbers_stay_numbers_in_many_panels() -> None:
    assert [figures.panels_of(study_with(tasks), 60) for tasks in (5, 6)] == [
        [None, *(f"t{i}" for i in range(5))],
        [None],
    ]


def study_with(tasks: int) -> Study:
    file = {
        "name": "n", "title": "t", "caveat": "", "factor": "f", "benchmark": "b@1",
        "tasks": [f"t{i}" for i in range(tasks)], "instructions": {}, "arms": [], "references": [],
        "command": "", "created": "", "wall_s": {}, "estimate_s": None,
    }  # fmt: skip
    return Study(StudyFile.model_validate(file), (), (), (), (), None)


@pytest.mark.parametrize(
    ("label", "settled"),
    [("plain", "plain"), ("a\u202eb", "a\u202eb\u202c"), ("\u2067a\u202eb", "\u2067a\u202eb\u202c\u2069"),
     ("\u202ea\u202c", "\u202ea\u202c")],
)  # fmt: skip
def test_writing_direction_ends_with_the_label(label: str, settled: str) -> None:
    assert sentences.settled(label) == settled


def test_data_cannot_end_its_script_element() -> None:
    hostile = ["</script><!--", "a&amp;b", "\u2028\u202e", 'quote "\\']
    text = browser.embed(hostile)
    assert text.isascii() and not set("<>&") & set(text) and json.loads(text) == hostile


def test_links_carry_any_name() -> None:
    link = browser.href(arm="a b&c=d#(e)", control="", task=None)
    assert link == "#episodes?arm=a%20b%26c%3Dd%23%28e%29&control="


def test_a_family_names_the_few() -> None:
    def ended(difference: float, p: float) -> Comparison:
        return Comparison(
            a="a", b="b", benchmark="x@1", pairs=9, only_a=1, only_b=1, difference=difference, low=difference - 0.1,
            high=difference + 0.1, level=0.95, interval_method="m", p_value=p, p_method="t", estimand="E2",
        )  # fmt: skip

    found = [*[ended(0.5, 0.01)] * 9, ended(-0.5, 0.01), ended(0.05, 0.9)]
    text = sentences.family_sentence(found, [f"L{i}" for i in range(11)], "do nothing")
    assert text == (
        "9 of 11 checkpoints did better than do nothing; 1 did worse than do nothing (L9); "
        "1 cannot be told apart from do nothing (L10)."
    )
