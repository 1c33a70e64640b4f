"""What a report shows of a selection besides its numbers: samples from the whole ranking, beside the nearest target."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradsift.report import ExampleGroup, ShownSample, ShownTarget
from gradsift.selection.explaining import Explanation, Near, why
from gradsift.selection.problem import Problem

_EACH = 3

Lookup = Callable[[Any], Any]


def example_groups(
    record: Mapping[str, Any],
    problem: Problem | None,
    sample: Lookup,
    target: Callable[[Near], Any],
    source: Callable[[Any], str | None],
) -> list[ExampleGroup]:
    """The best and the last of the selection, the middle and the bottom of the pool.

    ``sample(id)`` and ``target(near)`` give a sample (or its record), or None where its text is not at hand; `source`
    says where one comes from. Without `problem`, whose rows say it, no target example is named.
    """
    chosen = [
        {"id": i, "position": p, "influence": s, "place": f"selected {rank} of {len(record['ids'])}"}
        for rank, (i, p, s) in enumerate(
            zip(record["ids"], record["positions"], record["influence"], strict=True), start=1
        )
    ]
    ranked = record["counts"]["eligible"]
    marks = {
        name: [row | {"place": f"rank {row['rank']:,} of {ranked:,}"} for row in rows]
        for name, rows in record["distributions"]["landmarks"].items()
    }
    parts: list[tuple[str, str, Sequence[dict[str, Any]]]] = [
        ("Best of the selection", "What the selector put first.", chosen[:_EACH]),
        ("Last of the selection", "Where the budget ended.", chosen[max(_EACH, len(chosen) - _EACH) :]),
        ("Middle of the pool", "Half of the pool has a higher influence, half a lower one.", marks["middle"]),
        ("Bottom of the pool", "The lowest influence of all.", marks["worst"]),
    ]
    groups = []
    for title, note, rows in parts:
        if rows:
            positions = [row["position"] for row in rows]
            found = [None] * len(rows) if problem is None else why(problem, positions, closest=1)
            shown = [_shown(row, e, sample, target, source) for row, e in zip(rows, found, strict=True)]
            groups.append(ExampleGroup(title, note, shown))
    return groups


def _shown(
    row: Mapping[str, Any],
    found: Explanation | None,
    sample: Lookup,
    target: Callable[[Near], Any],
    source: Callable[[Any], str | None],
) -> ShownSample:
    of = sample(row["id"])
    near = None
    if found is not None and found.closest_targets:
        (closest,) = found.closest_targets
        of_target = target(closest)
        near = ShownTarget(
            str(closest.id),
            str(closest.subtask),
            closest.similarity,
            None if of_target is None else turns_of(of_target),
        )
    return ShownSample(
        f"row {row['position']} (its id was not kept)" if row["id"] is None else str(row["id"]),
        row["place"],
        row["influence"],
        None if of is None else source(of),
        None if of is None else turns_of(of),
        near,
    )


def turns_of(sample: Any) -> list[tuple[str, str]]:
    """(role, text) of a sample with ``messages``, or of a record: its messages, else its fields."""
    messages = getattr(sample, "messages", None)
    record = sample if isinstance(sample, Mapping) else getattr(sample, "record", {})
    if messages is None:
        messages = record.get("messages")
    if isinstance(messages, (list, tuple)) and all(isinstance(m, Mapping) for m in messages):
        return [(str(m.get("role", "")), _text(m.get("content", ""))) for m in messages]
    return [(str(key), _text(value)) for key, value in record.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
