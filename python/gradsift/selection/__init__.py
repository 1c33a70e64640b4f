"""Influence of candidates on targets, and the choice that follows from it."""

from __future__ import annotations

from gradsift.selection.collected import ScoringSink, select_collected
from gradsift.selection.explaining import Explanation, Near, explain
from gradsift.selection.given import select_by_text, select_scored
from gradsift.selection.influence import REDUCTIONS
from gradsift.selection.output import Selection
from gradsift.selection.selecting import select
from gradsift.selection.selectors import SELECTORS

__all__ = [
    "REDUCTIONS",
    "SELECTORS",
    "Explanation",
    "Near",
    "ScoringSink",
    "Selection",
    "explain",
    "select",
    "select_by_text",
    "select_collected",
    "select_scored",
]
