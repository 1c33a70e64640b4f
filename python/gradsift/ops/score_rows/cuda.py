"""Scores by the CUDA kernels (csrc/score_rows/score_rows.cu), and the best rows of a scan kept on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradsift import _native
from gradsift.ops import _arrays, _cuda_args
from gradsift.ops._arrays import Array
from gradsift.ops._cuda_args import Memory
from gradsift.ops.quantise.reference import rotate
from gradsift.ops.score_rows.blocks import QUANTISED, ROW_FORMATS, STATUS_NONFINITE, BlockScores, Part

_TOP_ROWS = 2048  # that one block of threads looks at: csrc/score_rows/top_rows_args.h


@dataclass(frozen=True)
class Columns:
    """Targets as the tensor cores of one device take them, in its memory."""

    native: _native.CudaScoreColumns
    packed: Memory
    scale: Memory
    targets: Memory


@dataclass
class PreparedTargets:
    """Rotated targets; `on` has the columns on each device that asked, laid out for its shared memory."""

    targets: np.ndarray
    dtype: str
    on: dict[str, Columns] = field(default_factory=dict)

    def at(self, like: Array) -> Columns:
        """Where `like` lies."""
        device = _arrays.device_of(like)
        if device not in self.on:
            columns, proj_dim = self.targets.shape
            native = _native.CudaScoreColumns(
                targets=self.targets.ctypes.data,
                columns=columns,
                proj_dim=proj_dim,
                format=ROW_FORMATS[self.dtype][0],
                shared_bytes=_native.cuda_device_info(_cuda_args.place(like)[0])["shared_bytes"],
            )
            packed, scale = np.empty(native.packed_bytes, np.uint8), np.empty(2 * columns, np.float32)
            native.pack(packed=packed.ctypes.data, scale=scale.ctypes.data)
            self.on[device] = Columns(native, *(_cuda_args.upload(a, like) for a in (packed, scale, self.targets)))
        return self.on[device]


def prepare_targets(targets: np.ndarray, dtype: str, seed: int) -> PreparedTargets:
    if dtype in QUANTISED:  # ⟨D·H·q, t⟩ = ⟨q, H·D·t⟩; √P is what ‖D·H·q‖ has more than ‖q‖
        targets = rotate(targets, seed) / np.float32(np.sqrt(targets.shape[1]))
    return PreparedTargets(np.array(targets, np.float32, order="C"), dtype)


def score_rows(
    parts: Sequence[Part],
    out: BlockScores,
    *,
    reduce: str,
    excluded: Array | None,
    hide: int,
    threads: int | None,
) -> None:
    for part in parts:
        if part.scores is not None:  # one checkpoint alone: rows are read once more
            alone, one = replace(part, weight=1.0, scores=None), BlockScores(scores=part.scores)
            score_rows([alone], one, reduce=reduce, excluded=None, hide=STATUS_NONFINITE, threads=None)
    if all(wanted is None for wanted in (out.influence, out.best, out.status, out.scores)):
        return
    like = parts[0].rows
    targets = [part.targets.at(like) for part in parts]
    n, columns = int(like.shape[0]), targets[0].targets.shape[0]
    rows = [Memory.rows(part.rows) for part in parts]
    scores = out.scores if out.scores is None else Memory.of(out.scores)
    groups = targets[0].native.groups
    if scores is None and (len(parts) > 1 or (reduce == "mean" and groups > 1)):  # what one launch leaves to the next
        sums = _cuda_args.scratch(like, 4 * n * columns)
        scores = Memory(sums.array, sums.address, (n, columns), (columns, 1), sums.dtype)
    influence, best, status = (
        _cuda_args.scratch(like, n * size) if array is None else Memory.of(array)
        for array, size in ((out.influence, 4), (out.best, 4), (out.status, 1))
    )
    described = []
    for part, memory, at in zip(parts, rows, targets, strict=True):
        stride = memory.strides[0] * int(memory.array.itemsize)
        described.append(
            (at.native, at.packed.address, at.scale.address, at.targets.address, memory.address, stride,
             _address(part.scales), part.weight)
        )  # fmt: skip
    _native.cuda_score_rows(
        place=_cuda_args.place(like),
        parts=described,
        n=n,
        reduce=("max", "mean").index(reduce),
        excluded=_address(excluded),
        hide=hide,
        influence=influence.address,
        best=best.address,
        status=status.address,
        scores=(0, 0) if scores is None else (scores.address, scores.strides[0]),
    )


def _address(array: Array | None) -> int:
    return 0 if array is None else Memory.of(array).address


class TopRows:
    """The best `k` rows of a scan, by influence and then the smaller row number, kept where the scores are.

    Takes 16 bytes for each of k + 4·`largest_block` rows. A block costs three launches and no wait.

    Parameters
    ----------
    k : int, at least 1
    largest_block : int
        The most rows that `add` will be given.
    like : array
        Anything on the device.
    """

    def __init__(self, k: int, largest_block: int, like: Array) -> None:
        self._like, self._k, self._block = like, k, largest_block
        self._capacity = k + 4 * largest_block
        blocks = -(-largest_block // _TOP_ROWS)
        self._state = _cuda_args.upload(np.zeros(2, np.int64), like)
        self._counts = _cuda_args.upload(np.zeros(max(blocks, 1), np.int32), like)
        self._kept = [_arrays.empty(like, (self._capacity,), name) for name in ("float32", "int64", "int32")]
        self._next_row = 0

    def add(self, influence: Array, best: Array, first_row: int) -> None:
        """Rows `first_row`, `first_row` + 1, … with float32 influence, NaN for those left out, and int32 columns.

        Raises ValueError unless `first_row` is beyond all rows so far: among equal scores, those that came first win.
        """
        if first_row < self._next_row:
            raise ValueError(f"first_row: expected {self._next_row} or more, as rows come in order, got {first_row}")
        n = int(influence.shape[0])
        self._next_row = first_row + n
        _native.cuda_top_rows_add(
            place=_cuda_args.place(self._like), top=self._top(), influence=_address(influence), best=_address(best),
            n=n, first_row=first_row,
        )  # fmt: skip

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row numbers int64, influence float32, best columns int32) of at most k rows, best first. Waits."""
        _native.cuda_top_rows_finish(place=_cuda_args.place(self._like), top=self._top())
        count = int(_on_host(self._state.array)[0])
        influence, rows, best = (_on_host(array[:count]) for array in self._kept)
        order = np.argsort(-influence, kind="stable")
        return rows[order], influence[order], best[order]

    def _top(self) -> _native._TopRows:
        influence, rows, best = (_address(array) for array in self._kept)
        return (self._state.address, self._counts.address, influence, rows, best,
                self._capacity, self._k, self._block)  # fmt: skip


def _on_host(array: Array) -> np.ndarray:
    return _arrays.numpy_view(array.cpu() if _arrays.is_tensor(array) else array)
