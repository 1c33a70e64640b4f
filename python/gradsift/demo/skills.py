"""The demo's data: sixteen skills whose questions and answers are made up by program, seeded.

Which part of the data (pool, few-shot, test) a problem belongs to follows from the problem itself, not from the seed:
no wording of a test problem is ever in the pool.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gradsift.demo import arithmetic, invented, structures
from gradsift.demo.problems import Problem

SKILLS: Mapping[str, Callable[[random.Random], Problem]] = MappingProxyType(
    {
        "arithmetic": arithmetic.one_step,
        "two_step_arithmetic": arithmetic.two_steps,
        "units": arithmetic.units,
        "dates": arithmetic.dates,
        "roman_numerals": arithmetic.roman,
        "commands": invented.commands,
        "made_up_labels": invented.made_up_labels,
        "invented_grammar": invented.invented_grammar,
        "caesar": invented.caesar,
        "sorting": structures.sorting,
        "list_comparison": structures.list_comparison,
        "string_editing": structures.string_editing,
        "tracking": structures.tracking,
        "sql": structures.sql,
        "json_field": structures.json_field,
        "brackets": structures.brackets,
    }
)
TARGETS = ("commands", "made_up_labels")

# Tenths of all problems of a skill.
SPLITS: Mapping[str, range] = MappingProxyType({"pool": range(6), "fewshot": range(6, 7), "test": range(7, 10)})
_DRAWS_PER_PROBLEM = 500


def generate(skill: str, n: int, seed: int, split: str) -> list[dict[str, Any]]:
    """`n` different problems of `skill` that belong to `split`, the same for the same arguments everywhere.

    Parameters
    ----------
    skill : one of `SKILLS`
    n : int, at least 0
    seed : int
    split : {"pool", "fewshot", "test"}
        Parts without a common problem, whatever the seeds.

    Returns
    -------
    list of dict
        ``{"id", "dataset", "messages"}`` with one user and one assistant turn; `dataset` is the skill.

    Raises
    ------
    ValueError
        Another skill or split, or more problems than the skill has.
    """
    if skill not in SKILLS:
        raise ValueError(f"skill: expected one of {', '.join(SKILLS)}, got {skill!r}")
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if n < 0:
        raise ValueError(f"n: expected at least 0, got {n}")
    rng = random.Random(_number(f"{skill}/{split}/{seed}"))
    found: dict[str, Problem] = {}
    for _ in range(n * _DRAWS_PER_PROBLEM):
        if len(found) == n:
            break
        problem = SKILLS[skill](rng)
        if _number(f"{skill}/{problem.key}") % 10 in SPLITS[split]:
            found.setdefault(problem.key, problem)
    if len(found) < n:
        raise ValueError(f"n: expected at most {len(found)} problems of {skill} in {split}, got {n}")
    return [
        {
            "id": f"{skill}-{split}-{i:04d}",
            "dataset": skill,
            "messages": [
                {"role": "user", "content": problem.question},
                {"role": "assistant", "content": problem.answer},
            ],
        }
        for i, problem in enumerate(found.values())
    ]


def write_demo_data(
    directory: str | os.PathLike[str],
    *,
    pool_per_skill: int,
    seed: int,
    targets: Sequence[str] = TARGETS,
    n_fewshot: int = 8,
    n_test: int = 60,
) -> dict[str, Path]:
    """Write ``pool.jsonl`` (all skills, shuffled) and ``targets/<skill>/fewshot.jsonl`` and ``test.jsonl``.

    Parameters
    ----------
    directory : path; made if it is not there, files of these names are overwritten
    pool_per_skill, n_fewshot, n_test : int
    seed : int
    targets : skills to select for; `pool_per_skill` problems of them are in the pool as of any other

    Returns
    -------
    dict
        ``"pool"``, ``"<skill>/fewshot"`` and ``"<skill>/test"`` to the files.
    """
    root = Path(directory)
    pool = [record for skill in SKILLS for record in generate(skill, pool_per_skill, seed, "pool")]
    random.Random(_number(f"order/{seed}")).shuffle(pool)
    files = {"pool": _write(root / "pool.jsonl", pool)}
    for skill in targets:
        for split, n in (("fewshot", n_fewshot), ("test", n_test)):
            path = root / "targets" / skill / f"{split}.jsonl"
            files[f"{skill}/{split}"] = _write(path, generate(skill, n, seed, split))
    return files


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
