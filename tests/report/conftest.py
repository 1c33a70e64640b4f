"""Selections to report on: of the demo's own data with made-up sketches, and of data that means harm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradsift as gs
from gradsift.demo.skills import SKILLS, TARGETS, generate

PROJ_DIM = 256


class Sample:
    """As `gradsift.data.Sample`, as far as reports look."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.id, self.record = record["id"], record


def sketches(records: list[dict[str, Any]]) -> gs.Sketches:
    """Rows that have the direction of their skill in common, and some noise; tokens are the words of the answer."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(records), PROJ_DIM))
    for row, record in zip(rows, records, strict=True):
        seed = int.from_bytes(hashlib.blake2b(repr(record["dataset"]).encode(), digest_size=8).digest(), "little")
        row += 1.5 * np.random.default_rng(seed).normal(size=PROJ_DIM)
    n = len(records)
    tokens = np.array([max(1, len(str(r["messages"][-1]["content"]).split())) for r in records])
    return gs.Sketches(rows.astype(np.float32), np.ones(n), np.ones(n), np.ones(n, np.float32), tokens)


@pytest.fixture(scope="session")
def demo_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a selection from the demo's data."""
    pool = [record for skill in SKILLS for record in generate(skill, 24, 0, "pool")]
    few = [record for skill in TARGETS for record in generate(skill, 8, 0, "fewshot")]
    result = gs.select(
        [sketches(pool)] * 2,
        [sketches(few)] * 2,
        count=24,
        selector="round_robin",
        subtasks=[record["dataset"] for record in few],
        ids=[record["id"] for record in pool],
    ).with_sources([record["dataset"] for record in pool])
    path = tmp_path_factory.mktemp("report") / "report.html"
    # targets given as arrays are numbered
    result.report(path, map(Sample, pool), dict(enumerate(few)), name="demo")
    return path


EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</title></style></svg></script><script>alert(3)</script>",
    "<!-- --!> ]]> <![CDATA[ x ]]>",
    "$\\frac{$ $x^2$ {{ 7 * 7 }} {% raw %}",
    "\x00\x07\x1b[31mred\x7f\x9b\ud800\ufffe",
    "\u202egnp.exe\u2066 \u200b\ufeff",
    "مرحبا بالعالم שלום",
    "日本語のとても長い名前" * 40,
    "javascript:alert(4)//http://example.invalid/x?<b>&amp;&lt;",
    "x" * 1_000_000,
    "onload=alert(5) style=color:red '`",
]


@pytest.fixture(scope="session")
def make_evil_report() -> Callable[[Path], Path]:
    """Writes a report in which every word of the data means harm: ids, sources, subtasks, texts, roles, names."""

    def make(path: Path) -> Path:
        n = 4 * len(EVIL)
        pool = [
            {
                "id": f"{EVIL[i % len(EVIL)]}{i}",
                "dataset": EVIL[i % len(EVIL)],
                "messages": [
                    {"role": EVIL[(i + 1) % len(EVIL)], "content": EVIL[(i + j) % len(EVIL)]} for j in range(9)
                ],
            }
            for i in range(n)
        ]
        few = [
            {"id": f"t{i}", "dataset": evil, "messages": [{"role": "user", "content": evil}]}
            for i, evil in enumerate(EVIL)
        ]
        result = gs.select(
            [sketches(pool)],
            [sketches(few)],
            count=n,
            subtasks=EVIL,
            ids=[str(r["id"]) for r in pool],
        ).with_sources([str(r["dataset"]) for r in pool])
        result.report(path, map(Sample, pool), dict(enumerate(few)), name=EVIL[2])
        return path

    return make
