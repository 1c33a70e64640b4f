"""Which rows of a scored pool are taken. All break ties by the smaller row number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gradsift.selection.selectors.base import Scored, Selector, check_seed
from gradsift.selection.selectors.baselines import Length, Random
from gradsift.selection.selectors.budget import BUDGETS, Budget, BudgetRequest
from gradsift.selection.selectors.by_influence import Band, Threshold, Top
from gradsift.selection.selectors.collapse import Collapse, check_threshold
from gradsift.selection.selectors.filling import fill
from gradsift.selection.selectors.knn_kde import KnnKde
from gradsift.selection.selectors.queues import Choice, Plan
from gradsift.selection.selectors.quota import Quota
from gradsift.selection.selectors.turns import Rds, RoundRobin
from gradsift.selection.selectors.vote import Vote

__all__ = [
    "BUDGETS",
    "SELECTORS",
    "Budget",
    "BudgetRequest",
    "Choice",
    "Collapse",
    "Plan",
    "Scored",
    "Selector",
    "check_seed",
    "check_threshold",
    "fill",
    "make_selector",
    "options_of",
]

_TABLE: dict[str, type[Selector]] = {
    selector.name: selector for selector in (Top, RoundRobin, Threshold, Band, Quota, Vote, KnnKde, Random, Length, Rds)
}
SELECTORS = tuple(_TABLE)


def options_of(name: str) -> dict[str, Any]:
    """The options of the selector `name` with their defaults; `dataclasses.MISSING` where one must be given."""
    return {field.name: field.default for field in dataclasses.fields(_class(name))}


def make_selector(name: str, options: Mapping[str, Any] | None = None) -> Selector:
    """The selector `name` with these options.

    Raises
    ------
    TypeError, ValueError
        No such selector; an option it has not, lacks or cannot use.
    """
    selector = _class(name)
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options: expected a mapping from name to value, got {type(options).__name__}")
    given = dict(options or {})
    known = options_of(name)
    strange = [key for key in given if key not in known]
    if strange:
        has = f"the options of {name!r}, {', '.join(known)}" if known else f"none, since {name!r} has no options"
        raise ValueError(f"options: expected {has}, got {', '.join(map(str, strange))}")
    absent = [key for key, default in known.items() if default is dataclasses.MISSING and key not in given]
    if absent:
        raise ValueError(f"options: expected {', '.join(absent)} with selector {name!r}, got none")
    return selector(**given)


def _class(name: str) -> type[Selector]:
    if name not in SELECTORS:  # a tuple, which can be asked for what has no hash
        raise ValueError(f"selector: expected one of {SELECTORS}, got {name!r}")
    return _TABLE[name]
