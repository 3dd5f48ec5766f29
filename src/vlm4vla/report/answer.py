"""The answer in plain sentences, from the recorded numbers: one by one where they are few, counted where many."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlm4vla.records import Comparison
from vlm4vla.report import browser, rates, sentences
from vlm4vla.report.folder import Study, TableRow

MANY = 8
"""More sentences of one kind than this are not read."""


@dataclass(frozen=True)
class Said:
    """A sentence, and the link that shows what it rests on."""

    text: str
    href: str


@dataclass(frozen=True)
class Answer:
    """The verdicts first, then what they stand on."""

    verdicts: list[Said]
    scope: list[str]
    rates: list[Said]
    scale: list[Said]
    controls: list[Said]


def answer(study: Study) -> Answer:
    """Sentences on arms, their differences, floor and ceiling, and controls."""
    between = rates.by_kind(study)

    labels = study.labels
    retrained = [
        Said(sentences.rate_sentence(labels.get(e.arm, e.arm), e), browser.href(recipe=e.arm, control=""))
        for e in study.recipes
    ]
    about = retrained or _rates(study, "arm")
    if len(about) > MANY:
        table = "#recipes" if retrained else "#results"
        about = [Said(f"The success rates of all {len(about)} arms, with their intervals, are in the table.", table)]
    return Answer(
        verdicts=_verdicts(study, between["arm"]),
        scope=_scope(between),
        rates=about,
        scale=_rates(study, "reference") + _families(study, between["reference"], lambda row: row.name, "{}"),
        controls=_families(study, between["control"], lambda row: row.control or "", "the same under {}")
        or _rates(study, "control")[:MANY],
    )


def _scope(between: Mapping[str, Sequence[Comparison]]) -> list[str]:
    """What the verdicts are about, as the comparisons of arms say; then, in a sentence of its own, all others."""
    said = list(dict.fromkeys(sentences.scope_sentence(c) for c in between["arm"]))
    if between["reference"] or between["control"]:
        said.append(sentences.scale_scope_sentence(bool(between["reference"]), bool(between["control"])))
    return said


def _rates(study: Study, kind: str) -> list[Said]:
    rows = [row for row in study.table if row.kind == kind and None in row.estimates]
    return [Said(sentences.rate_sentence(r.label, r.estimates[None]), browser.row_href(r)) for r in rows]


def _single(study: Study, c: Comparison) -> Said:
    text = sentences.difference_sentence(c, study.labels.get(c.a, c.a), study.labels.get(c.b, c.b))
    paired = c.a in study.lines and c.b in study.lines
    return Said(text, browser.name_href(study, c.a, against=c.b) if paired else "#comparisons")


def _verdicts(study: Study, found: Sequence[Comparison]) -> list[Said]:
    """Every pair of arms; of many pairs, who leads, how the pairs ended, and the largest difference."""
    if len(found) <= MANY:
        return [_single(study, c) for c in found]
    out = []
    best = max(study.recipes, key=lambda e: e.rate).arm if study.recipes else None
    own = [c for c in found if best in (c.a, c.b)]
    if best is not None and len(own) == len(study.recipes) - 1:
        rivals = [c.b if c.a == best else c.a for c in own if sentences.verdict(c) in ("undecided", "equal")]
        names = [study.labels.get(name, name) for name in rivals]
        out.append(Said(sentences.leader_sentence(study.labels.get(best, best), names, len(own)), "#recipes"))
    out.append(Said(sentences.pairs_sentence(found), "#comparisons"))
    return [*out, _single(study, rates.largest_first(found)[0])]


def _families(study: Study, found: Sequence[Comparison], key: Callable[[TableRow], str], words: str) -> list[Said]:
    """Comparisons with references or controls; many are counted by their second side (``key`` of its row)."""
    if len(found) <= MANY:
        return [_single(study, c) for c in found]
    by_second: dict[str, list[Comparison]] = {}
    for c in found:
        by_second.setdefault(key(study.lines[c.b]), []).append(c)
    return [
        Said(
            sentences.family_sentence(
                own, [study.labels.get(c.a, c.a) for c in own], words.format(study.labels.get(second, second))
            ),
            "#comparisons",
        )
        for second, own in by_second.items()
    ]
