"""The error budgets of docs/numerics.md, for the tests and for the driver's cases: nobody else writes them down."""

from __future__ import annotations

import re
from pathlib import Path

NUMERICS = Path(__file__).parents[2] / "docs" / "numerics.md"
ROW = re.compile(r"^\| `(\w+)` \| `?(\w+)`? \| ([0-9.]+e-[0-9]+) \|", re.MULTILINE)


def read_budgets() -> dict[tuple[str, str], float]:
    """(op, quantity) to the largest ‖got − want‖ / ‖want‖ allowed."""
    return {(op, quantity): float(value) for op, quantity, value in ROW.findall(NUMERICS.read_text("utf-8"))}
