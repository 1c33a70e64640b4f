"""TSDS: mass of the targets spread over their neighbours, near-duplicates sharing theirs."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradsift.selection.influence import Columns
from gradsift.selection.rows import PoolRows
from gradsift.selection.selectors.base import Scored, Selector, check_count, check_number, draws
from gradsift.selection.selectors.queues import Choice, Ordered, Plan, best_first

# Every product has this shape but the last ones: sums do not depend on how many rows there are.
_TILE_ROWS = 256


@dataclass(frozen=True)
class KnnKde(Selector):
    """TSDS with kernel density estimation (Liu, Karbasi and Rekatsinas, NeurIPS 2024), as its released code does it.

    Every one of M target examples has a mass of 1/M, which it gives to its nearest candidates, at most
    ``1 / (M·s·ρ_i)`` to candidate i. Distances are those of unit rows, ``d² = 2 − 2·Σ_c η̄_c cos``; the density
    ``ρ_i = Σ_i' max(0, 1 − d²(i, i')/σ²)`` counts near-duplicates among all neighbours of all targets, itself included.
    The spread s grows until moving mass to the next neighbour costs more than `alpha` allows:
    ``α/C · Σ_j (s·d_j,k+1 − Σ_{i≤k} d_ji/ρ_i) >= (1 − α)·M``.

    The code then draws with replacement; a selection holds a sample once, so rows are drawn *without* replacement with
    probabilities in the proportion of their masses: in order of ``log(u_i) / mass_i``, descending, with u_i from
    BLAKE2b-64 of the id, keyed by the seed (Efraimidis and Spirakis). Only rows with mass are taken: where they are
    fewer than asked for, ``counts`` says so; a smaller `alpha` or a larger `c` spreads wider.

    Options
    -------
    sigma : float, 0 or 1e-100 … 1e100
        Width of the kernel: rows of a cosine above ``1 − σ²/2`` share mass. 0: none do.
    alpha : float, 0 < alpha < 1
        Near 1, only the nearest candidates get mass; near 0, it is spread over all `neighbours`.
    c : float, > 0
        On the scale of the distances.
    neighbours : int, >= 2
        Of each target, that can get mass.
    """

    name: ClassVar[str] = "knn_kde"
    needs_rows: ClassVar[bool] = True

    sigma: float = 0.75
    alpha: float = 0.5
    c: float = 5.0
    neighbours: int = 1000

    def __post_init__(self) -> None:
        # its square divides, and must be neither 0 nor infinite
        check_number("sigma", self.sigma, "0, or 1e-100 … 1e100", lambda x: x == 0.0 or 1e-100 <= x <= 1e100)
        check_number("alpha", self.alpha, "0 < alpha < 1", lambda x: 0.0 < x < 1.0)
        check_number("c", self.c, "a number > 0", lambda x: x > 0.0)
        check_count("neighbours", self.neighbours, least=2)

    @property
    def near(self) -> float | None:
        return 1.0 - self.sigma**2 / 2 if self.sigma > 0 else None

    def check(self, reduce: str) -> None:
        if reduce != "max":
            raise ValueError(
                f'reduce: expected "max" with selector "knn_kde", whose masses are those of target examples, got '
                f'{reduce!r}; use reduce="max"'
            )

    def needs_scores(self, columns: Columns, depth: int | None) -> bool:
        return True

    def plan(self, scored: Scored) -> Plan:
        rows, mass = self.masses(scored)
        with_mass = np.flatnonzero(mass > 0)
        rows, mass = rows[with_mass], mass[with_mass]
        u = (draws(scored, rows).astype(np.float64) + 0.5) / 2.0**64
        order = rows[np.lexsort((rows, -np.log(u) / mass))]
        return Plan.single(Ordered(Choice(order, scored.pool.influence[order], scored.pool.best[order])))

    def masses(self, scored: Scored) -> tuple[np.ndarray, np.ndarray]:
        """Positions (t,) of the neighbours of any target, ascending, and the mass (t,) float64 of each; 1 in all."""
        scores = scored.pool.scores
        assert scores is not None  # asked for by needs_scores
        assert scored.rows is not None  # asked for by needs_rows
        rows = scored.eligible
        k = min(self.neighbours, len(rows))
        nearest = np.stack([rows[best_first(scores[rows, j], rows, k)] for j in range(scores.shape[1])])
        distances = np.sqrt(np.maximum(0.0, 2.0 - 2.0 * np.take_along_axis(scores.astype(np.float64), nearest.T, 0).T))
        found = np.unique(nearest)
        places = np.searchsorted(found, nearest)
        density = self._density(scored.rows, found)[places]
        mass = np.zeros(len(found))
        for j, share in enumerate(_spread(distances, density, self.alpha, self.c)):
            np.add.at(mass, places[j, : len(share)], share)
        return found, mass

    def _density(self, rows: PoolRows, found: np.ndarray) -> np.ndarray:
        """ρ of the rows at `found`, (t,) float64; t²·P·C operations in tiles, of which three are in memory."""
        if self.sigma == 0:
            return np.ones(len(found))
        density = np.zeros(len(found))
        parts = [slice(at, at + _TILE_ROWS) for at in range(0, len(found), _TILE_ROWS)]
        for i, a in enumerate(parts):
            these = rows.take(found[a])
            for b in parts[i:]:
                kernel = np.maximum(0.0, 1.0 - (2.0 - 2.0 * these.cosines(rows.take(found[b]))) / self.sigma**2)
                density[a] += kernel.sum(axis=1)
                if a != b:
                    density[b] += kernel.sum(axis=0)
        return density


def _spread(distances: np.ndarray, density: np.ndarray, alpha: float, c: float) -> list[np.ndarray]:
    """The mass that each target gives to its neighbours, nearest first; (M, k) arrays in.

    Transcribes the greedy solution of the released code: neighbours are opened in order of the spread s at which the
    ones before them are full, until the cost reaches what alpha allows.
    """
    n_targets, k = distances.shape
    if k == 1:
        return [np.array([1.0 / n_targets]) for _ in range(n_targets)]
    last = [0] * n_targets
    heap = [(1.0 / density[j, 0], 0, j) for j in range(n_targets)]
    heapq.heapify(heap)
    weighted = [distances[j, 0] / density[j, 0] for j in range(n_targets)]
    cost = [0.0] * n_targets
    total = spread = 0.0
    while heap:
        spread, at, j = heapq.heappop(heap)
        total -= cost[j]
        cost[j] = distances[j, at + 1] * spread - weighted[j]
        total += cost[j]
        if alpha / c * total >= (1.0 - alpha) * n_targets:
            break
        last[j] = at
        if at < k - 2:
            weighted[j] += distances[j, at + 1] / density[j, at + 1]
            heapq.heappush(heap, (spread + 1.0 / density[j, at + 1], at + 1, j))
    shares = []
    for j in range(n_targets):
        share = 1.0 / (n_targets * spread * density[j, : last[j] + 2])
        share[-1] = max(1.0 / n_targets - share[:-1].sum(), 0.0)
        shares.append(share)
    return shares
