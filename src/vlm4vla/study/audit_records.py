"""The audit after running: what the runs recorded, between the arms and against each run's own settings."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm4vla import config as configs
from vlm4vla import provenance, records
from vlm4vla.records import RunRecord
from vlm4vla.schemas import EvalConfig, StudyConfig, TrainConfig
from vlm4vla.study import cells
from vlm4vla.study.audit_facts import CHOSEN, EVALUATED, NATIVE_FOLLOWS, OF_VLM, TRAINED, TWINS
from vlm4vla.study.audit_line import Line
from vlm4vla.study.audit_settings import NATIVE, frozen_groups

OPEN = ("recorded.version", "recorded.config", "evaluated.version", "evaluated.config")
"""Beginnings of lines whose names depend on what ran."""
_PACKAGES = ("torch", "transformers", "numpy", "vlm4vla")
_SOFTWARE = ("commit", "cpu", "device")
_OF_EVAL = ("bench", "tasks", "episodes", "split", "batch", "precision", "assume_spec")
_SAME_VLM = "two arms with one VLM differ in it"
_BY_RULE = "chosen by the declared rule"
_NOT_RECORDED = "not recorded"


def names() -> list[str]:
    """Lines that appear when something has run, those of ``OPEN`` left out."""
    of_train = [f"recorded.{fact}" for fact in (*TRAINED, *NATIVE, *_SOFTWARE, "data", "processes", "seed")]
    return of_train + [f"evaluated.{fact}" for fact in (*EVALUATED, *_SOFTWARE, "tokens", "policy", "selection")]


def finished(folder: Path) -> RunRecord | None:
    """The record of a run that came to its end."""
    file = folder / "run.json"
    record = records.read_one(file, RunRecord) if file.is_file() else None
    return record if record is not None and record.finished is not None else None


def lines(study: StudyConfig, trained: Mapping[str, RunRecord], evaluated: Mapping[str, RunRecord]) -> Iterator[Line]:
    """All lines about runs; ``trained`` and ``evaluated``: row name -> record."""
    of_train = {n: configs.validate(TrainConfig, r.config, f"the record of {n}") for n, r in trained.items()}
    of_eval = {n: configs.validate(EvalConfig, r.config, f"the record of {n}") for n, r in evaluated.items()}
    causes = _flat(study)
    for found in (
        _trained(study, trained, of_train),
        _native(trained, of_train),
        _settings(study, of_train, of_eval),
        _evaluated(study, trained, evaluated, of_eval),
    ):
        yield from (replace(line, causes=_causes(line, causes)) for line in found)


def _trained(
    study: StudyConfig, trained: Mapping[str, RunRecord], settings: Mapping[str, TrainConfig]
) -> Iterator[Line]:
    seeds = {name: config.seed for name, config in settings.items()}
    for fact, told in TRAINED.items() if trained else ():
        values = _facts(trained, fact)
        expected = {n: told.expected(settings[n]) for n in values} if told.expected else {}
        broken = _against(values, expected)
        if fact == "frozen_groups":
            broken = _frozen_otherwise(study, trained, values)
        groups = seeds if fact == "order" else None  # another seed is another order
        excuse = _BY_RULE if fact == "learning_rate" and study.grid is not None else None
        yield Line(f"recorded.{fact}", values, follows=told.follows, groups=groups, broken=broken, excuse=excuse)
    if trained:
        stores = {name: record.inputs["store"] for name, record in trained.items()}
        sizes = ("policy.backbone.image_size", "policy.backbone.view_size")
        yield Line("recorded.data", stores, follows=sizes)
        yield from _software("recorded", trained)
        processes = {name: record.hardware.get("processes", _NOT_RECORDED) for name, record in trained.items()}
        yield Line("recorded.processes", processes)


def _native(trained: Mapping[str, RunRecord], settings: Mapping[str, TrainConfig]) -> Iterator[Line]:
    """What may differ between VLMs, and between two arms with one VLM may not."""
    vlm = {n: (c.policy.backbone.family, c.policy.backbone.checkpoint) for n, c in settings.items()}
    for fact in NATIVE if trained else ():
        values = _facts(trained, fact)
        if fact in ("parameters", "trainable"):
            field = "total" if fact == "parameters" else "trainable"
            values = {n: sum(getattr(p, field) for p in r.parameters) for n, r in trained.items()}
        follows = NATIVE_FOLLOWS.get(fact, OF_VLM)
        yield Line(f"recorded.{fact}", values, "may-differ", follows, groups=vlm, note=_SAME_VLM)


def _settings(
    study: StudyConfig, trained: Mapping[str, TrainConfig], evaluated: Mapping[str, EvalConfig]
) -> Iterator[Line]:
    """Settings that stand in a run's record otherwise than in the study: it was another run."""
    wanted, starts = _flat(study), _starts(study)
    found: dict[str, dict[str, Any]] = {}
    for name, config in trained.items():
        flat = configs.flatten(configs.to_dict(config))
        found[name] = {key.removeprefix("data."): value for key, value in flat.items()}
        if name in starts and Path(config.policy.backbone.checkpoint).parts[-2:] == starts[name]:
            wanted[name]["policy.backbone.checkpoint"] = config.policy.backbone.checkpoint
        if study.grid is not None and name in wanted:  # a rate of the declared grid is a rate of the study
            rates = [wanted[name]["optimizer.lr"] * factor for factor in study.grid.factors]
            near = [rate for rate in rates if math.isclose(rate, config.optimizer.lr, rel_tol=1e-6)]
            wanted[name]["optimizer.lr"] = config.optimizer.lr if near else f"one of {rates}"
    unimportant = ("loader_workers", "log_every", "checkpoint_every", "threads")
    yield from _otherwise("recorded.config", found, wanted, unimportant)
    plain = {**configs.to_dict(study.eval), "bench": study.bench, "tasks": list(study.tasks)}
    plain |= {"split": "eval", "assume_spec": False}
    asked = {name: {key: plain[key] for key in _OF_EVAL} for name in evaluated}
    if study.select is None:
        asked = {name: {**values, "execute": study.eval.execute} for name, values in asked.items()}
    of_eval = {name: configs.to_dict(config) for name, config in evaluated.items()}
    yield from _otherwise("evaluated.config", of_eval, asked, ())


def _flat(study: StudyConfig) -> dict[str, dict[str, Any]]:
    """Row name -> the settings of its training, by dotted keys, and its seed."""
    found: dict[str, dict[str, Any]] = {}
    for arm in study.arms:
        flat = configs.flatten(configs.to_dict(cells.recipe(study, arm)))
        for seed in study.seeds:
            found[cells.row_name(study, arm, seed)] = {**flat, "seed": seed}
    return found


def _starts(study: StudyConfig) -> dict[str, tuple[str, ...]]:
    """Row name -> end of the path to the pretext's VLM that it starts from, two parts; rows without one left out."""
    return {
        cells.row_name(study, arm, seed): start.vlm.parts[-2:]
        for arm, start in cells.starts_of(study, Path()).items()
        for seed in study.seeds
    }


def _causes(line: Line, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Row name -> the settings that a line follows from, as one text."""
    return {
        name: repr([(k, v) for k, v in settings[name].items() for f in line.follows if k == f or k.startswith(f"{f}.")])
        for name in line.values
    }


def _otherwise(
    prefix: str,
    found: Mapping[str, Mapping[str, Any]],
    wanted: Mapping[str, Mapping[str, Any]],
    unimportant: tuple[str, ...],
) -> Iterator[Line]:
    keys = dict.fromkeys(key for name in found for key in wanted[name] if key not in unimportant)
    for key in keys:
        values = {name: settings.get(key) for name, settings in found.items()}
        broken = {
            name: f"the study says {wanted[name].get(key)}"
            for name, value in values.items()
            if value != wanted[name].get(key)
        }
        if broken:
            yield Line(f"{prefix}.{key}", values, broken=broken)


def _evaluated(
    study: StudyConfig,
    trained: Mapping[str, RunRecord],
    evaluated: Mapping[str, RunRecord],
    settings: Mapping[str, EvalConfig],
) -> Iterator[Line]:
    both = {name: (trained[name], record) for name, record in evaluated.items() if name in trained}
    for fact, told in EVALUATED.items() if evaluated else ():
        values = _facts(evaluated, fact)
        expected = {n: told.expected(settings[n]) for n in values} if told.expected else {}
        broken = _against(values, {n: value for n, value in expected.items() if value is not None})
        if fact in TWINS:
            twins = {name: training.facts.get(fact) for name, (training, _) in both.items()}
            broken |= _against(values, twins, "its training has")
        if fact in CHOSEN:
            broken |= _not_chosen(fact, values, both, settings)
        excuse = _BY_RULE if fact in CHOSEN and study.select is not None else None
        yield Line(f"evaluated.{fact}", values, follows=told.follows, broken=broken, excuse=excuse)
    yield from _what_ran(both, evaluated, settings)


def _what_ran(
    both: Mapping[str, tuple[RunRecord, RunRecord]],
    evaluated: Mapping[str, RunRecord],
    settings: Mapping[str, EvalConfig],
) -> Iterator[Line]:
    """The rule of selection, the weights, the simulator and the software."""
    if not evaluated:
        return
    rules = {name: None if c.selection is None else _rule(configs.to_dict(c.selection)) for name, c in settings.items()}
    if any(rules.values()):
        yield Line("evaluated.selection", rules)
    weights = {name: record.inputs["policy"] for name, (_, record) in both.items()}
    own = {n: {t.inputs.get("policy"), *t.facts.get("kept", {}).values()} for n, (t, _) in both.items()}
    broken = {n: "its training made no such policy" for n, digest in weights.items() if digest not in own[n]}
    if broken:
        yield Line("evaluated.policy", weights, groups={name: name for name in weights}, broken=broken)
    simulators = {name: record.versions for name, record in evaluated.items()}
    for key in dict.fromkeys(key for held in simulators.values() for key in held):
        yield Line(f"evaluated.version.{key}", {name: held.get(key) for name, held in simulators.items()})
    yield from _software("evaluated", evaluated)
    tokens = _facts(evaluated, "tokens")
    yield Line("evaluated.tokens", tokens, "may-differ", groups={name: name for name in tokens})


def _software(prefix: str, runs: Mapping[str, RunRecord]) -> Iterator[Line]:
    """Which code ran, in all attempts of a run, with which packages, and on what."""
    for package in _PACKAGES:
        found = {name: record.packages.get(package, _NOT_RECORDED) for name, record in runs.items()}
        yield Line(f"{prefix}.version.{package}", found)
    yield Line(f"{prefix}.commit", {name: _commits(record) for name, record in runs.items()})
    yield Line(f"{prefix}.cpu", {name: record.hardware["cpu"] for name, record in runs.items()})
    yield Line(f"{prefix}.device", {name: _device(record) for name, record in runs.items()})


def _commits(record: RunRecord) -> str:
    """Of all attempts; older records of trainings know the last one alone."""
    return ", ".join(sorted({*record.facts.get("commits", [provenance.source(record.commit, record.dirty)])}))


def _device(record: RunRecord) -> str:
    """The name of the GPU, or "cpu"; which of a machine's GPUs it was changes nothing."""
    device = str(record.hardware.get("device", _NOT_RECORDED)).partition(":")[0]
    return str(record.hardware.get("gpu", device))


def _rule(selection: Mapping[str, Any]) -> dict[str, Any]:
    """What was tried, without what came out."""
    tried = [[c["step"], c["execute"]] for c in selection["candidates"]]
    return {"on": selection["on"], "episodes": selection["episodes"], "candidates": tried}


def _not_chosen(
    fact: str,
    values: Mapping[str, Any],
    both: Mapping[str, tuple[RunRecord, RunRecord]],
    settings: Mapping[str, EvalConfig],
) -> dict[str, str]:
    """Row -> why the policy or the horizon that was evaluated is not the one that the rule names."""
    broken = {}
    for name, (training, _) in both.items():
        chosen = settings[name].selection
        if chosen is None:
            named = training.facts.get("checkpoint_step") if fact == "checkpoint_step" else settings[name].execute
        else:
            named = chosen.chosen.step if fact == "checkpoint_step" else chosen.chosen.execute
        if values[name] != named:
            broken[name] = f"the rule of selection names {named}"
    return broken


def _frozen_otherwise(
    study: StudyConfig, trained: Mapping[str, RunRecord], values: Mapping[str, Any]
) -> dict[str, str]:
    """Row -> groups that its arm freezes, where the run froze others: by its word, or by its count of parameters."""
    broken = {}
    for arm in study.arms:
        for name in (cells.row_name(study, arm, seed) for seed in study.seeds):
            if name not in values:
                continue
            there = {p.group: p for p in trained[name].parameters if p.total}
            asked = [g for g in frozen_groups(cells.recipe(study, arm)) if g in there or not there]
            still = sorted(g for g, p in there.items() if p.trainable == 0)
            if sorted(values[name]) != asked:
                broken[name] = f"its settings freeze {asked or 'nothing'}"
            elif there and still != asked:
                broken[name] = f"its settings freeze {asked or 'nothing'}, its parameters say {still or 'nothing'}"
    return broken


def _facts(runs: Mapping[str, RunRecord], fact: str) -> dict[str, Any]:
    return {name: record.facts.get(fact, _NOT_RECORDED) for name, record in runs.items()}


def _against(values: Mapping[str, Any], expected: Mapping[str, Any], words: str = "its settings say") -> dict[str, str]:
    return {n: f"{words} {value}" for n, value in expected.items() if values[n] != value}
