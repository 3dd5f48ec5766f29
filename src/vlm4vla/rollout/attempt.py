"""One run, perhaps in several attempts: a killed run goes on in its folder, if nothing that made its rows has changed.

Checked are the settings (by hash), the packages that compute, and the simulator's versions. Commits may differ between
attempts, as any edit makes a new one: ``facts["commits"]`` lists them all.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from vlm4vla import config as configs
from vlm4vla import provenance, records
from vlm4vla.records import RunRecord
from vlm4vla.schemas import DemosConfig, EvalConfig
from vlm4vla.types import refuse

# settings that cannot change a row or a demonstration
_NOT_IDENTITY = {"workers", "videos_per_task", "selection", "evaluation", "out"}
_COMPUTING = ("vlm4vla", "torch", "transformers", "numpy")  # packages that can


def draft(
    kind: Literal["demos", "eval"],
    config: EvalConfig | DemosConfig,
    benchmark: str,
    inputs: Mapping[str, str],
    packages: Iterable[str],
) -> RunRecord:
    """The record of a first attempt. ``config`` names its tasks: "all" would be whatever the benchmark lists that day.
    ``inputs`` (content hashes) stand for the settings of their names: a policy's digest counts, not its path.
    ``packages``: names whose versions are recorded."""
    assert config.tasks
    settings = {k: v for k, v in configs.to_dict(config).items() if k not in _NOT_IDENTITY}
    identity = configs.digest(settings | dict(inputs) | {"benchmark": benchmark})
    commit, dirty = provenance.source_state()
    return RunRecord(
        run=f"{kind}-{identity}",
        kind=kind,
        config=configs.to_dict(config),
        config_hash=identity,
        commit=commit,
        dirty=dirty,
        packages=provenance.package_versions(packages),
        hardware=provenance.hardware(),
        seed=config.seed if isinstance(config, EvalConfig) else None,  # demonstrations: their starts have seeds
        inputs=dict(inputs),
        facts={"commits": [provenance.source(commit, dirty)]},
        started=now(),
    )


def begin(out: Path, new: RunRecord) -> RunRecord:
    """``new`` in an empty folder, else the record of the earlier attempt at the same run; stored unless it is finished.

    Refuses a folder of another run, and to go on with other packages than those of the first attempt.
    """
    file = out / "run.json"
    record = new
    if file.is_file():
        record = records.read_one(file, RunRecord)
        _check_settings(out, record, new)
        if record.finished is not None:
            return record
        _refuse_changes(out, "software", _computing(record.packages), _computing(new.packages))
        before = (
            record.facts["commits"] if "commits" in record.facts else [provenance.source(record.commit, record.dirty)]
        )
        record = record.model_copy(update={"facts": record.facts | {"commits": [*before, *new.facts["commits"]]}})
    records.write_one(file, record)
    return record


def with_versions(out: Path, record: RunRecord, versions: Mapping[str, str]) -> RunRecord:
    """Stores the simulator's versions the first time; afterwards refuses others."""
    if not record.versions:
        record = record.model_copy(update={"versions": dict(versions)})
        records.write_one(out / "run.json", record)
    _refuse_changes(out, "simulator", record.versions, dict(versions))
    return record


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check_settings(out: Path, earlier: RunRecord, new: RunRecord) -> None:
    if earlier.config_hash == new.config_hash:
        return
    changed = configs.diff(earlier.config | earlier.inputs, new.config | new.inputs)
    told = "; ".join(f"{k}: {a!r} there, {b!r} now" for k, (a, b) in changed.items() if k not in _NOT_IDENTITY)
    raise refuse(
        f"{out} holds another run ({told or 'another version of the benchmark'})",
        possible="an empty folder, or the settings of that run",
        todo="Choose another --out, or remove the folder; two runs are never mixed.",
    )


def _refuse_changes(out: Path, what: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    changed = configs.diff(before, now)
    if changed:
        told = "; ".join(f"{name}: {old} then, {new} now" for name, (old, new) in changed.items())
        raise refuse(
            f"The {what} is not the one that began {out} ({told})",
            possible="the versions of the first attempt",
            todo="Install those again, or choose another --out and run everything with these.",
        )


def _computing(packages: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in packages.items() if name in _COMPUTING}
