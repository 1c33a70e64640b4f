"""How much may be selected."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BUDGETS = ("samples", "tokens")


@dataclass(frozen=True)
class Budget:
    """At most `amount` samples, or samples of at most `amount` tokens together; None is no limit.

    Attributes
    ----------
    amount : int or None
    costs : (N,) int64 or None
        Tokens of every row of the pool; None where samples are counted.
    """

    amount: int | None
    costs: np.ndarray | None

    def prefix(self, positions: np.ndarray) -> int:
        """How many of the rows at `positions`, taken in order, the budget holds.

        The first row that does not fit ends it, whether or not a later one would fit; the very first is always taken.
        """
        n = len(positions)
        if self.amount is None or n == 0:
            return n
        if self.costs is None:
            return min(n, self.amount)
        fit = np.searchsorted(np.cumsum(self.costs[positions]), self.amount, side="right")
        return max(1, int(fit))

    def cost(self, position: int) -> int:
        return 1 if self.costs is None else int(self.costs[position])


@dataclass(frozen=True)
class BudgetRequest:
    """What was asked for, checked as far as that is possible before the pool is scored."""

    fraction: float | None
    count: int | None
    unit: str

    @classmethod
    def of(cls, fraction: float | None, count: int | None, unit: str, n_rows: int, *, needed: bool) -> BudgetRequest:
        """`needed`: whether one of fraction and count must be given."""
        if unit not in BUDGETS:
            raise ValueError(f"budget: expected one of {BUDGETS}, got {unit!r}")
        if (fraction is None) == (count is None) and (needed or fraction is not None):
            got = "neither" if fraction is None else "both"
            raise ValueError(f"fraction, count: expected exactly one of them, got {got}")
        if count is not None:
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
                raise TypeError(f"count: expected an int, got {type(count).__name__}")
            if unit == "samples" and not 1 <= count <= n_rows:
                raise ValueError(f"count: expected 1 … {n_rows}, the rows of the pool, got {count}")
            if count < 1:
                raise ValueError(f"count: expected at least 1 token, got {count}")
        if fraction is not None:
            if isinstance(fraction, bool) or not isinstance(fraction, (int, float, np.floating)):
                raise TypeError(f"fraction: expected a float, got {type(fraction).__name__}")
            if not 0.0 < fraction <= 1.0:
                raise ValueError(f"fraction: expected 0 < fraction <= 1, got {fraction}")
        return cls(fraction, None if count is None else int(count), unit)

    def samples(self, n_rows: int) -> int | None:
        """How many samples at most; None where that depends on their tokens."""
        return self._amount(n_rows) if self.unit == "samples" else None

    def over(self, tokens: np.ndarray) -> Budget:
        """The budget in a pool whose rows have so many `tokens`, (N,) int64, -1 where not known.

        Raises ValueError where tokens are the budget and a row's are not known.
        """
        if self.unit == "samples":
            return Budget(self._amount(len(tokens)), None)
        unknown = np.flatnonzero(tokens < 0)
        if len(unknown):
            raise ValueError(
                f'budget: expected the tokens of every row with "tokens", got none for {len(unknown)} rows (first: '
                f"{unknown[0]}); pass lengths=[...], or take a store that was collected with them"
            )
        return Budget(self._amount(int(tokens.sum())), tokens)

    def _amount(self, whole: int) -> int | None:
        if self.fraction is None:
            return self.count
        # 0.29 · 100 is 28.999999999999996 in binary: a fraction means the decimal that was written
        return max(1, math.floor(float(self.fraction) * whole * (1.0 + 1e-12)))
