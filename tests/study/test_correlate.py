"""``study correlate``: the published correlations, planted cases, score and success files, and their refusals."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from statsmodels.api import OLS, add_constant

from vlm4vla.cli.main import main
from vlm4vla.records import Estimate, write_all
from vlm4vla.report.correlation import Correlation, Point, headline, words
from vlm4vla.report.correlation_figure import figure, short_names
from vlm4vla.study import published, scores
from vlm4vla.study.correlate import correlate, mmrv, reliability, with_holm
from vlm4vla.study.permutation import permutation_p
from vlm4vla.types import UserError

SCORES = """vlm,family,task,metric,score,standard_error,prompt,n
a-1,a,mmstar,acc,0.41,0.012,v0.1,1500
a-2,a,mmstar,acc,0.47,0.012,v0.1,1500
b-1,b,mmstar,acc,0.52,0.013,v0.1,1500
b-2,b,mmstar,acc,0.61,0.013,v0.1,1500
c-1,c,mmstar,acc,0.66,0.012,v0.1,1500
c-2,c,mmstar,acc,0.70,,v0.1,
"""
SUCCESS = """vlm,benchmark,successes,n
a-1,toy@1,20,96
a-2,toy@1,30,96
b-1,toy@1,41,96
b-2,toy@1,44,96
c-1,toy@1,66,96
z-9,toy@1,66,96
"""


@pytest.fixture(scope="module")
def of_paper() -> dict[str, Correlation]:
    return {c.benchmark.split()[0].split("-")[0].lower(): c for c in published.correlations()}


@pytest.mark.parametrize(
    ("key", "r", "interval", "p", "families"),
    [
        ("calvin", 0.839, (0.39, 0.97), 0.004, (0.77, 0.96)),
        ("simplerenv", -0.358, (-0.83, 0.40), 0.33, (-0.94, -0.13)),
        ("libero", -0.194, (-0.76, 0.54), 0.61, (-0.71, 0.20)),
    ],
)
def test_published_correlations(
    of_paper: dict[str, Correlation],
    key: str,
    r: float,
    interval: tuple[float, float],
    p: float,
    families: tuple[float, float],
) -> None:
    found = of_paper[key]
    assert found.r == pytest.approx(r, abs=0.0006) and (found.n, found.families) == (9, 4)
    assert (found.low, found.high) == pytest.approx(interval, abs=0.01)
    assert found.p == pytest.approx(p, abs=0.01) and found.p_method == "all 362,880 permutations"
    assert found.family_range == pytest.approx(families, abs=0.01)
    assert "left out" in words(found)[0]  # the families come first


def test_what_carries_the_published_correlations(of_paper: dict[str, Correlation]) -> None:
    calvin, simpler, libero = of_paper["calvin"], of_paper["simplerenv"], of_paper["libero"]
    assert calvin.family_means is not None and calvin.within_r is not None
    assert (calvin.family_means.r, calvin.within_r) == pytest.approx((0.92, -0.17), abs=0.005)
    assert simpler.success_reliability == pytest.approx(0.22, abs=0.01)
    assert libero.success_reliability == pytest.approx(0.78, abs=0.01)
    assert simpler.homogeneity is not None and libero.homogeneity is not None and calvin.homogeneity is None
    assert (simpler.homogeneity.df, simpler.homogeneity.chi2) == (8, pytest.approx(10.2, abs=0.05))
    assert simpler.homogeneity.p == pytest.approx(0.25, abs=0.01)
    assert libero.homogeneity.p == pytest.approx(2e-5, abs=1e-5)
    assert simpler.noise_range == pytest.approx((-0.70, 0.21), abs=0.02)
    assert calvin.critical_r == pytest.approx(0.666, abs=0.001)
    assert calvin.score_reliability is None  # the paper gives no errors of its scores
    assert any("Neither a correlation nor its absence" in s for s in words(simpler))
    assert any("contrast between families" in s for s in words(calvin))
    assert "changes its sign" in words(libero)[0]


def points(x: list[float], y: list[float], families: str, **more: list[float]) -> list[Point]:
    return [
        Point(vlm=f"m{i}", family=f, score=a, success=b, **{key: v[i] for key, v in more.items()})
        for i, (a, b, f) in enumerate(zip(x, y, families, strict=True))
    ]


def run(made: list[Point]) -> Correlation:
    return correlate(made, scores="s", benchmark="b", unit="rate")


def test_a_planted_contrast_between_families_is_seen_as_one() -> None:
    """Two groups far apart, falling within: r is high and positive, within families it is -1."""
    found = run(points([0, 1, 2, 10, 11, 12], [2, 1, 0, 12, 11, 10], "aaabbb"))
    assert found.r > 0.9 and found.within_r == pytest.approx(-1) and found.family_range == pytest.approx((-1, -1))
    assert found.family_means is None  # two means always lie on a line


def test_one_vlm_alone_can_carry_r() -> None:
    found = run(points([0, 1, 2, 3, 30], [1, 0, 1, 0, 40], "abcde"))
    assert found.r > 0.99 and found.vlm_range is not None and found.vlm_range[0] < 0
    without = next(x for x in found.vlms_left_out if x.left_out == "m4")
    assert without.r == found.vlm_range[0] and without.n == 4


def test_units_do_not_matter() -> None:
    x, y, error = [0.1, 0.4, 0.5, 0.9, 0.7], [3.0, 1.0, 2.0, 5.0, 4.0], [0.2, 0.1, 0.2, 0.3, 0.1]
    a = run(points(x, y, "aabbc", success_error=error))
    b = run(points([7 - 100 * v for v in x], [v / 5 for v in y], "aabbc", success_error=[v / 5 for v in error]))
    assert b.r == pytest.approx(-a.r) and b.p == a.p and b.kendall_p == a.kendall_p
    assert b.success_reliability == pytest.approx(a.success_reliability)
    assert b.within_r == pytest.approx(-(a.within_r or 0))
    assert [p.low for p in b.predictions] == pytest.approx([p.low / 5 for p in reversed_by_score(a)])


def reversed_by_score(c: Correlation) -> list[object]:
    """Predictions of a mirrored score axis: lowest and highest change places."""
    by_score: dict[float, list[object]] = {}
    for p in c.predictions:
        by_score.setdefault(p.score, []).append(p)
    return [p for score in sorted(by_score, reverse=True) for p in by_score[score]]


def test_prediction_is_that_of_least_squares() -> None:
    x, y = [0.0, 1.0, 2.0, 4.0, 5.0], [1.0, 3.0, 2.0, 6.0, 5.0]
    own = [p for p in run(points(x, y, "aaaaa")).predictions if p.score == 5.0]
    other = OLS(np.array(y), add_constant(np.array(x))).fit().get_prediction([[1, 5.0]])
    low, high = other.summary_frame(alpha=0.05)[["obs_ci_lower", "obs_ci_upper"]].to_numpy()[0]
    assert len(own) == 1 and (own[0].low, own[0].high) == pytest.approx((low, high))


def test_reliability_recovers_what_was_planted() -> None:
    """True SD 2, error SD 1: reliability 0.8; the estimate is right on average."""
    generator = np.random.default_rng(0)
    truth = 2 * generator.standard_normal((4000, 30))
    seen = truth + generator.standard_normal(truth.shape)
    assert np.mean([reliability(row, np.ones(30)) for row in seen]) == pytest.approx(0.8, abs=0.02)
    assert reliability(np.array([1.0, 1.1, 0.9]), np.ones(3)) == 0
    assert reliability(np.array([1.0, 2.0]), None) is None


def test_the_exact_test_holds_its_level() -> None:
    generator = np.random.default_rng(1)
    p = np.array([permutation_p(*generator.standard_normal((2, 6)))[0] for _ in range(1500)])
    assert 0.03 < (p <= 0.05).mean() < 0.065 and p.min() >= 1 / 720


def test_more_than_nine_are_sampled_and_say_so() -> None:
    x = np.arange(11.0)
    y = x + np.array([0, 6, 0, -5, 0, 3, 0, 0, -9, 0, 0])
    p, method = permutation_p(x, y)
    assert method == "200,000 random permutations, seed 0" and permutation_p(x, y)[0] == p
    r = float(np.corrcoef(x, y)[0, 1])
    t = r * np.sqrt(9 / (1 - r**2))
    from scipy.stats import t as student

    assert p == pytest.approx(2 * student.sf(t, 9), rel=0.25)


def test_holm_is_over_all_that_were_computed() -> None:
    one = run(points([0, 1, 2, 3, 4], [0, 1, 2, 4, 3], "abcde"))
    other = run(points([0, 1, 2, 3, 4], [2, 0, 1, 3, 0], "abcde"))
    assert [c.p_holm for c in with_holm([one, other])] == pytest.approx([min(1, 2 * one.p), max(2 * one.p, other.p)])
    assert with_holm([one])[0].p_holm == one.p


def test_a_correlation_that_holm_takes_back_is_not_shown() -> None:
    """Sentence, headline and line of the figure say the same."""
    alone = run(points([0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 3, 5], "aabbcc"))
    assert alone.p < 0.05 and alone.low > 0 and not alone.undecided
    (found, *_) = with_holm([alone] * 20)
    assert found.p == alone.p and found.p_holm > 0.05 and found.undecided
    assert "Neither a correlation nor its absence is shown." in words(found)
    assert "with Holm. Neither a correlation" in headline(found) and "Holm" not in headline(alone)
    dashed = [[line.get_linestyle() for line in figure([c], 3.4).axes[0].lines] for c in (found, alone)]
    assert "--" in dashed[0] and "--" not in dashed[1]


def test_holm_leaves_the_published_result_decided(of_paper: dict[str, Correlation]) -> None:
    assert of_paper["calvin"].p_holm < 0.05 and not of_paper["calvin"].undecided
    assert of_paper["simplerenv"].undecided and of_paper["libero"].undecided


def test_mmrv_by_hand() -> None:
    """Policies 0 and 1 (0.25 apart in reality) change places: each has a violation of 0.25, the third has none."""
    assert mmrv([0.0, 0.25, 0.9], [0.3, 0.1, 0.8]) == pytest.approx(2 * 0.25 / 3)
    assert mmrv([0.1, 0.2, 0.3], [0.0, 0.5, 0.6]) == 0


def test_short_names_never_cut_a_number() -> None:
    made = [Point(vlm=v, family=v[0], score=0, success=0) for v in ("M-12B", "M-14B", "M-14B-x", "Alone-7B")]
    assert short_names(made) == {"M-12B": "12B", "M-14B": "14B", "M-14B-x": "14B-x", "Alone-7B": ""}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "scores.csv").write_text(SCORES)
    (tmp_path / "success.csv").write_text(SUCCESS)
    return tmp_path / "scores.csv", tmp_path / "success.csv"


def test_files_are_joined_by_vlm_and_nothing_is_lost_silently(files: tuple[Path, Path]) -> None:
    (found,) = scores.correlations(*files)
    assert (found.n, found.benchmark, found.scores) == (5, "toy@1", "mmstar, acc, prompt v0.1")
    assert found.points[0] == Point(
        vlm="a-1", family="a", score=0.41, score_error=0.012, success=20 / 96,
        success_error=(20 / 96 * (1 - 20 / 96) / 96) ** 0.5, successes=20, trials=96,
    )  # fmt: skip
    assert found.notes == ("Left out, without success rate: c-2.", "Left out, without score: z-9.")
    assert found.score_reliability is not None and found.score_reliability > 0.97
    assert all(0 <= p.low <= p.high <= 1 for p in found.predictions)


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_notations_say_the_same(files: tuple[Path, Path], ending: str) -> None:
    import yaml

    rows = [row.model_dump() for row in scores.read_scores(files[0])]
    other = files[0].with_suffix(f".{ending}")
    other.write_text(json.dumps(rows) if ending == "json" else yaml.safe_dump(rows))
    assert scores.correlations(other, files[1]) == scores.correlations(*files)


STEP = {"success": 0.1, "completed": 0.4}


def study_folder(folder: Path, **of_recipes: object) -> Path:
    """Estimates alone; ``of_recipes``: what those of E3 record besides."""
    lines = []
    step = STEP[str(of_recipes.get("measure", "success"))]
    for i, arm in enumerate(("a-1", "a-2", "b-1", "b-2", "random")):
        for estimand, half in (("E2", 0.1), ("E3", 0.2)):  # a recipe, and its checkpoint under a name of its own
            for task, control in ((None, None), ("t", None), (None, "image-blank")):
                rate = step * (0, 9, 1, 8, 3)[i]
                facts = {
                    "arm": arm if estimand == "E3" else f"{arm}-s0", "control": control, "benchmark": "toy@1",
                    "task": task, "episodes": 50, "successes": 25, "rate": rate, "low": rate - half,
                    "high": rate + half, "level": 0.95, "method": "m", "estimand": estimand,
                }  # fmt: skip
                lines.append(Estimate.model_validate(facts | (of_recipes if estimand == "E3" else {})))
    write_all(folder / "estimates.jsonl", lines)
    return folder


def test_success_of_a_study_folder(files: tuple[Path, Path], tmp_path: Path) -> None:
    (found,) = scores.correlations(files[0], study_folder(tmp_path / "study", standard_error=0.06))
    assert [p.vlm for p in found.points] == ["a-1", "a-2", "b-1", "b-2"] and found.points[1].success == 0.9
    assert {p.success_error for p in found.points} == {0.06}
    assert "estimand E3; errors are those of training runs and starts" in found.notes[0]
    assert "without score: random" in found.notes[2]


def test_records_without_standard_errors_are_still_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    where = study_folder(tmp_path / "study")
    text = (where / "estimates.jsonl").read_text().replace(',"standard_error":null', "")
    assert "standard_error" not in text
    (where / "estimates.jsonl").write_text(text)
    (found,) = scores.correlations(files[0], where)
    assert found.points[0].success_error == pytest.approx(0.2 / 1.959964)
    assert "too large where training runs are few" in found.notes[0]


@pytest.mark.parametrize(
    ("chained", "unit", "most"),
    [({}, "share of episodes", 1.0), ({"measure": "completed", "longest": 5}, "subtasks in a row", 5.0)],
)
def test_what_a_study_measured_has_unit_and_limits(
    files: tuple[Path, Path], tmp_path: Path, chained: dict[str, object], unit: str, most: float
) -> None:
    """Of four VLMs that scatter so far a straight line promises success rates below nothing and above everything."""
    (found,) = scores.correlations(files[0], study_folder(tmp_path / "study", **chained))
    assert found.unit == unit
    assert {x for p in found.predictions for x in (p.low, p.high)} >= {0.0, most}
    assert all(0 <= p.low <= p.high <= most for p in found.predictions)


@pytest.mark.parametrize(
    ("which", "old", "new", "sentence"),
    [
        (0, "0.61,", "x,", "Input should be a valid number"),
        (0, "0.61,", "nan,", "finite"),
        (0, "b-2,b,", "b-2,,", "'rows.3.family' is missing"),
        (0, "score,standard", "scoer,standard", "Did you mean 'score'"),
        (0, "c-2,c,mmstar,acc,0.70,,v0.1", "c-2,c,mmstar,acc,0.70,,v0.2", "2 prompts: v0.1, v0.2"),
        (0, "a-2,a", "a-1,a", "'a-1' is there twice"),
        (0, "a-2,a", "a-1,b", "of family 'a' and of 'b'"),
        (0, "0.41,0.012,v0.1,1500", "0.41,0.012,v0.1,1500,7", "line 2 has more cells"),
        (0, "0.41,0.012", "0.41,-0.012", "greater than or equal to 0"),
        (1, "20,96", "200,96", "200 successes of 96 episodes"),
        (1, "20,96", "20,", "either successes and n"),
        (1, "b-1,toy@1", "q-1,toy@1", None),
        (1, "a-1,toy@1,20,96\na-2", "x-1,toy@1,20,96\nx-2", "3 VLMs have both"),
    ],
)
def test_faults_of_files_are_named(
    files: tuple[Path, Path], which: int, old: str, new: str, sentence: str | None
) -> None:
    text = files[which].read_text()
    assert old in text
    files[which].write_text(text.replace(old, new, 1))
    if sentence is None:
        assert scores.correlations(*files)[0].n == 4
        return
    with pytest.raises(UserError) as told:
        scores.correlations(*files)
    assert sentence in str(told.value)


def test_equal_values_and_other_files_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all success rates are 1"):
        run(points([0, 1, 2, 3], [1, 1, 1, 1], "abcd"))
    for name, text, sentence in (
        ("x.txt", "", "not a file of rows"),
        ("x.json", "{", "cannot be read"),
        ("x.yaml", "a: 1", "no list of rows"),
        ("x.csv", "vlm\n", "no list of rows"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=sentence):
            scores.correlations(tmp_path / name, files[1])
    with pytest.raises(UserError, match="No file"):
        scores.correlations(tmp_path / "absent.csv", files[1])
    with pytest.raises(UserError, match="has no estimates"):
        scores.correlations(files[0], tmp_path)


def test_command(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "<script>$x_1$</script>"
    for file in files:
        file.write_text(file.read_text().replace("b-2", hostile))
    words_given = ["study", "correlate", str(files[0]), "--success", str(files[1])]
    assert main([*words_given, "--json", "--out", str(tmp_path / "out")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out/correlation.json").read_text())
    assert next(iter(printed["correlations"][0])) == "words"
    for name in ("correlation.svg", "correlation-wide.svg"):
        root = ElementTree.parse(tmp_path / "out/figures" / name).getroot()
        assert not [e for e in root.iter() if e.tag.endswith("script")]
    assert (tmp_path / "out/figures/correlation.pdf").read_bytes().startswith(b"%PDF-")
    first = {f.name: f.read_bytes() for f in (tmp_path / "out").rglob("*.*") if f.is_file()}
    assert main([*words_given, "--out", str(tmp_path / "out")]) == 0
    assert "one of 3 families left out" in capsys.readouterr().out.splitlines()[1]
    assert first == {f.name: f.read_bytes() for f in (tmp_path / "out").rglob("*.*") if f.is_file()}


@pytest.mark.parametrize("more", [[], ["x.csv"], ["--success", "y.csv"], ["x.csv", "--success", "y", "--published"]])
def test_wrong_usage(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "correlate", *more]) == 2
    assert "Give one of the two" in capsys.readouterr().err
