"""Near-duplicates: of rows whose cosine reaches a threshold, only the one that comes first is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gradsift.selection.rows import PoolRows, UnitRows

_WINDOW_ROWS = 512
# Float32 products of up to 65,536 entries are within this of float64; what lies closer is decided there.
_DOUBT = 1e-5
# Rows that are equal have a cosine of 1 up to rounding in float64.
_EXACT = 1e-12


class Collapse:
    """Answers, row by row in the order of a selection, whether a row is far enough from all that were accepted.

    The cosine is that of influence, ``Σ_c η̄_c cos(z_c, z'_c)`` over checkpoints. Products are formed in float32 for a
    window of rows at a time; what lies within 1e-5 of the threshold is decided in float64, so that the answer does not
    depend on windows.

    Parameters
    ----------
    rows : PoolRows
    threshold : float, 0 < threshold <= 1
    limit_bytes : int
        Accepted rows are kept in memory up to this; those beyond it are read again for every window.

    Notes
    -----
    m rows asked about and k accepted cost about ``2·m·k·P·C`` operations. Memory: `limit_bytes`, and some 1024 rows at
    C checkpoints.
    """

    def __init__(self, rows: PoolRows, threshold: float, *, limit_bytes: int = 256 << 20) -> None:
        self._rows = rows
        self._threshold = threshold
        self._limit_rows = limit_bytes // rows.row_bytes
        self._kept: list[UnitRows] = []
        self._kept_rows = 0
        self._reread: list[int] = []
        self._window = rows.take([])
        self._place: dict[int, int] = {}
        self._far = np.empty(0, bool)
        self._near_each_other = self._doubtful = np.empty((0, 0), bool)
        self._accepted: list[int] = []

    def accept(self, position: int, upcoming: Callable[[int], Sequence[int]]) -> bool:
        """Whether the row at `position` is no near-duplicate of one accepted before; then it counts as accepted.

        `upcoming` gives that many positions that will probably be asked about next.
        """
        if position not in self._place:
            self._keep_accepted()
            self._open_window([position, *(p for p in upcoming(_WINDOW_ROWS) if p != position)][:_WINDOW_ROWS])
        at = self._place[position]
        if not self._far[at] or self._near_each_other[at, self._accepted].any():
            return False
        # asked of accepted rows alone: among copies every pair of the window is in doubt
        if any(self._decide(at, self._window, j) for j in self._accepted if self._doubtful[at, j]):
            return False
        self._accepted.append(at)
        return True

    def _keep_accepted(self) -> None:
        if not self._accepted:
            return
        kept = self._window[np.array(self._accepted)]
        self._accepted = []
        if self._kept_rows + len(kept) <= self._limit_rows:
            self._kept.append(kept)
            self._kept_rows += len(kept)
        else:
            self._reread += kept.positions.tolist()

    def _open_window(self, positions: Sequence[int]) -> None:
        self._window = self._rows.take(positions)
        self._place = {p: i for i, p in enumerate(positions)}
        self._near_each_other, self._doubtful = self._compared(self._window)
        self._far = np.ones(len(positions), bool)
        for kept in self._kept:
            self._far &= ~self._near_any(kept)
        for start in range(0, len(self._reread), _WINDOW_ROWS):
            self._far &= ~self._near_any(self._rows.take(self._reread[start : start + _WINDOW_ROWS]))

    def _near_any(self, others: UnitRows) -> np.ndarray:
        """(rows of the window,) bool: near one of `others` at least."""
        near, doubtful = self._compared(others)
        found = np.asarray(near.any(axis=1))
        for i in np.flatnonzero(~found & doubtful.any(axis=1)).tolist():
            found[i] = any(self._decide(i, others, j) for j in np.flatnonzero(doubtful[i]).tolist())
        return found

    def _compared(self, others: UnitRows) -> tuple[np.ndarray, np.ndarray]:
        """(rows of the window, rows of `others`) bool, twice: surely near, and too close to the threshold to say."""
        above = self._window.cosines(others) - self._threshold
        return above >= _DOUBT, np.abs(above) < _DOUBT

    def _decide(self, i: int, others: UnitRows, j: int) -> bool:
        return self._window.exact_cosine(i, others, j) >= self._threshold - _EXACT


def check_threshold(value: float | None) -> float | None:
    """`deduplicate` of `select`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)):
        raise TypeError(f"deduplicate: expected a float or None, got {type(value).__name__}")
    if not 0.0 < value <= 1.0:
        raise ValueError(f"deduplicate: expected a cosine, 0 < deduplicate <= 1, got {value}")
    return float(value)
