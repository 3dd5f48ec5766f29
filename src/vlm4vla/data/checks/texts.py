"""Checks of instructions, and of episodes that are there twice."""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from vlm4vla.data.checks.findings import Finding, episodes, percent
from vlm4vla.data.store import EpisodeEntry, Store


def check(store: Store) -> Iterator[Finding]:
    yield from _instructions(store)
    yield from _duplicates(store)


def _instructions(store: Store) -> Iterator[Finding]:
    def where(is_bad: Callable[[str], bool]) -> tuple[int, ...]:
        return episodes(e.episode for e in store.episodes if is_bad(e.instruction))

    empty = where(lambda text: not text.strip())
    if empty:
        yield Finding(
            "error",
            "instruction-empty",
            f"{percent(len(empty) / len(store.episodes))} of the episodes have no instruction, or only blanks.",
            "Leave unlabelled episodes out in the reader, or label them: a policy would learn to act without words.",
            empty,
        )
    odd = where(_has_odd_characters)
    if odd:
        text = store.episodes[odd[0]].instruction
        yield Finding(
            "warning",
            "instruction-characters",
            f"Instructions hold characters that do not print, or remains of a conversion, such as {text!r}.",
            "Clean the texts in the data set: a tokenizer makes other tokens of them than of a user's words.",
            odd,
        )
    rimmed = where(lambda text: bool(text.strip()) and text != text.strip() and not _has_odd_characters(text))
    if rimmed:
        yield Finding(
            "warning",
            "instruction-characters",
            f"Instructions begin or end with blanks, such as {store.episodes[rimmed[0]].instruction!r}.",
            "Strip them in the reader.",
            rimmed,
        )
    others = [e for e in store.episodes if "evaluated_as" in e.info]
    if others:
        first = others[0]
        yield Finding(
            "warning",
            "instruction-evaluated",
            f"{len(others)} of {len(store.episodes)} episodes are told other words than evaluations of their task use, "
            f"such as {first.instruction!r} for {first.info['evaluated_as']!r}.",
            "Build it without the reader's option instruction, unless the policy is evaluated on these very sentences.",
            episodes(e.episode for e in others),
        )
    tasks, texts = {e.task for e in store.episodes}, {e.instruction for e in store.episodes}
    if len(tasks) > 1 and len(texts) == 1 and not empty:
        yield Finding(
            "error",
            "instruction-same",
            f"All {len(tasks)} tasks have the one instruction {texts.pop()!r}.",
            "Check which column the reader takes the instruction from: words that never change teach nothing.",
        )


def _has_odd_characters(text: str) -> bool:
    """Control and unassigned characters, private use, U+FFFD; or the repr of bytes (``b'...'``)."""
    byte_text = text[:2] in ("b'", 'b"') and text[-1:] == text[1]
    return byte_text or "\ufffd" in text or any(unicodedata.category(c) in ("Cc", "Cf", "Cn", "Co", "Cs") for c in text)


def _key(store: Store, e: EpisodeEntry) -> bytes:
    return hashlib.sha256(store.actions[e.start : e.stop].tobytes()).digest()


def _moves(store: Store, e: EpisodeEntry) -> bool:
    """Sequences of one repeated action are equal without being copies."""
    rows = store.actions[e.start : e.stop]
    return e.length >= 3 and bool((rows != rows[0]).any())


def _is_copy(a: Store, one: EpisodeEntry, b: Store, other: EpisodeEntry) -> bool:
    """Equal states and equal first and last pictures, after equal actions."""
    if (a.states is None) != (b.states is None) or a.state_names != b.state_names:
        return False
    if a.states is not None and b.states is not None:
        mine, theirs = a.states[one.start : one.stop], b.states[other.start : other.stop]
        if not np.array_equal(mine, theirs, equal_nan=True):
            return False
    cameras = {c.name for c in a.cameras} & {c.name for c in b.cameras}
    ends = ((one.start, other.start), (one.stop - 1, other.stop - 1))
    return all(np.array_equal(a.image(i, c), b.image(j, c)) for c in cameras for i, j in ends)


def _duplicates(store: Store) -> Iterator[Finding]:
    groups: dict[bytes, list[EpisodeEntry]] = defaultdict(list)
    for e in store.episodes:
        if _moves(store, e):
            groups[_key(store, e)].append(e)
    copies: list[int] = []
    retold: list[int] = []
    first: tuple[int, int] | None = None
    for entries in groups.values():
        for i, e in enumerate(entries[1:], 1):
            twin = next((o for o in entries[:i] if _is_copy(store, o, store, e)), None)
            (copies if twin is not None else retold).append(e.episode)
            first = first or (((twin or entries[0]).episode), e.episode)
    if copies or retold:
        assert first is not None
        yield Finding(
            "warning",
            "duplicate",
            f"{len(copies)} episodes repeat an earlier one (actions, states, first and last pictures), {len(retold)} "
            f"more its actions only; the first pair is {first[0]} and {first[1]}.",
            "Remove the copies, unless one recording shall count for several instructions.",
            episodes(sorted(copies + retold)),
        )


def leakage(train: Store, val: Store) -> Iterator[Finding]:
    """Validation episodes that are training episodes: their loss measures memory."""
    known: dict[bytes, list[EpisodeEntry]] = defaultdict(list)
    for e in train.episodes:
        if _moves(train, e):
            known[_key(train, e)].append(e)
    same = [(o, e) for e in val.episodes for o in known.get(_key(val, e), ())[:1]]
    if not same:
        return
    copies = sum(_is_copy(train, one, val, other) for one, other in same)
    yield Finding(
        "error",
        "leakage",
        f"{len(same)} of {len(val.episodes)} validation episodes have the actions of a training episode "
        f"({copies} of them also its states and pictures); the first is validation episode {same[0][1].episode} = "
        f"training episode {same[0][0].episode}.",
        "Split by recordings, before anything is copied or augmented; a loss on such a set measures memory.",
        episodes(sorted({one.episode for one, _ in same})),
    )
