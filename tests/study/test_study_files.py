"""Every shipped study can be planned and passes its audit, names tasks, cameras and starts that exist."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm4vla import config as configs
from vlm4vla import registry
from vlm4vla.rollout import jobs
from vlm4vla.schemas import EvalConfig, StudyConfig
from vlm4vla.study import audit, cells, plan, selection
from vlm4vla.study.run import Study

STUDIES = Path(__file__).parents[2] / "studies"
FILES = sorted(STUDIES.rglob("*.yaml"))
TO_BE_AUDITED = "released.yaml"  # written to fail its audit, never run
RUN = [file for file in FILES if file.name != TO_BE_AUDITED]
TINY = [file for file in FILES if file.parent.name == "tiny"]


def name(file: Path) -> str:
    return str(file.relative_to(STUDIES))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_it_can_be_planned(file: Path) -> None:
    study = configs.load(StudyConfig, file)
    lines = plan.describe(study, Path("runs"))
    assert [line["stage"] for line in lines].count("train") == len(study.arms) * len(study.seeds)
    assert audit.audit(study, {})["ok"] == (file.name != TO_BE_AUDITED)


@pytest.mark.parametrize("file", RUN, ids=name)
def test_it_passes_every_check_that_comes_before_a_run(file: Path, tmp_path: Path) -> None:
    study = configs.load(StudyConfig, file)
    Study(study, tmp_path, print).check()
    benchmark = registry.find("bench", study.bench).Benchmark()
    seen: set[tuple[str, int]] = set()
    for config in evaluations(study):
        if (config.split, config.episodes) not in seen:  # starts of one kind once: a thousand take a while
            seen.add((config.split, config.episodes))
            assert jobs.build(config, benchmark, "uri")


def evaluations(study: StudyConfig) -> Iterator[EvalConfig]:
    for cell in cells.cells(study, Path("o"))[:1]:
        yield from selection.candidates(cell)
        yield cell.eval
    yield from (trial.cell.eval for trial in cells.trials(study, Path("o")))


@pytest.mark.parametrize("file", TINY, ids=name)
def test_a_twin_has_families_and_training_runs_enough_for_a_claim(file: Path) -> None:
    study = configs.load(StudyConfig, file)
    families = {cells.recipe(study, arm).policy.backbone.family for arm in study.arms}
    # The claim of the probes is about the benchmark, not about families.
    assert len(families) >= (2 if "within each" in study.factor or "never hears" in study.factor else 4)
    assert len(study.seeds) >= 3 and study.name == f"tiny_{file.stem}"
    assert list(STUDIES.glob(f"{file.stem}_*.yaml")), "a twin of nothing"


def test_a_full_size_study_takes_data_from_where_they_lie() -> None:
    study = configs.load(StudyConfig, STUDIES / "main_table_simpler.yaml")
    words = cells.store_words(study, Path("out"), 224)
    assert words[:5] == ["data", "build", "data/bridge_orig/1.0.0", "--format", "rlds"]
    assert words.count("--option") == 3 and "cameras=image_0=3rd_view_camera" in words
    assert cells.demos(study, Path("out")) is None
    moved = configs.load(StudyConfig, STUDIES / "main_table_simpler.yaml", ["--data.source", "elsewhere"])
    assert cells.store_folder(study, Path("o"), 224) != cells.store_folder(moved, Path("o"), 224)
