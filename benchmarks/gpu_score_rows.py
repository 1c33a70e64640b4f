"""Scanning rows for the best 5%: `RowScorer` and `TopRows`, against torch's matrix product, maximum and top-k.

torch gets its best form: targets averaged to one column a subtask, in the dtype of the rows, no norms taken of rows,
all rows in one product. Codes are multiplied as they lie by `torch._int_mm` against targets in 8 bits (less fine than
ours) or, as QLESS does, widened first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from gpu_timing import Case
from gradsift.ops.score_rows import BlockScores, RowScorer
from gradsift.ops.score_rows.blocks import QUANTISED, ROW_FORMATS
from gradsift.ops.score_rows.cuda import TopRows

PROJ_DIM = 8192
STORE_BYTES = 4 << 30
RATES = {"float32": "bfloat16", "float16": "float16", "bfloat16": "bfloat16"}


def cases(quick: bool) -> Iterator[Case]:
    """Every row dtype and 1 to 100 columns, over 4 GiB of rows."""
    for dtype in ("bfloat16", "int8", "int1") if quick else tuple(ROW_FORMATS):
        row_bytes = PROJ_DIM * ROW_FORMATS[dtype][1] // 8
        n = (STORE_BYTES // 4 if quick else STORE_BYTES) // row_bytes
        rows, scales = _rows(dtype, n)
        for columns in (10, 100) if quick else (1, 10, 32, 100):
            yield _case(dtype, rows, scales, columns)


def _rows(dtype: str, n: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    if dtype not in QUANTISED:
        return torch.randn(n, PROJ_DIM, device="cuda", dtype=getattr(torch, dtype)), None
    bits = ROW_FORMATS[dtype][1]
    codes = torch.randint(0, 256, (n, PROJ_DIM * bits // 8), device="cuda", dtype=torch.uint8)
    if bits == 8:
        codes[codes == 128] = 127
    if bits == 4:  # a half of −8 is no code
        codes = torch.where((codes & 15) == 8, codes ^ 15, codes)
        codes = torch.where((codes >> 4) == 8, codes ^ 0xF0, codes)
    return codes, torch.ones(n, device="cuda")


def _case(dtype: str, rows: torch.Tensor, scales: torch.Tensor | None, columns: int) -> Case:
    n = rows.shape[0]
    rng = np.random.default_rng(columns)
    targets = rng.standard_normal((columns, PROJ_DIM)).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    scorer = RowScorer([targets], [1.0], [dtype], device="cuda")
    out = BlockScores(torch.empty(n, device="cuda"), torch.empty(n, device="cuda", dtype=torch.int32))

    def ours(_: Any) -> None:
        top = TopRows(n // 20, n, rows)
        scorer.score([rows], out, scales=[scales])
        top.add(out.influence, out.best, 0)

    calls = {"gradsift": ours}
    if dtype not in QUANTISED:
        peer = torch.from_numpy(targets.T.copy()).to("cuda", rows.dtype)
        calls["torch"] = lambda _: torch.topk((rows @ peer).amax(dim=1), n // 20)
    elif dtype == "int8":
        narrow = np.rint(targets * (127 / np.abs(targets).max())).astype(np.int8)
        wide = np.zeros((-(-columns // 8) * 8, PROJ_DIM), np.int8)  # _int_mm takes multiples of 8
        wide[:columns] = narrow
        eight = torch.from_numpy(wide).cuda().t()
        signed = rows.view(torch.int8)
        calls["torch _int_mm"] = lambda _: torch.topk(torch._int_mm(signed, eight).amax(dim=1), n // 20)
        peer = torch.from_numpy(targets.T.copy()).to("cuda", torch.bfloat16)

        def widened(_: Any) -> None:
            parts = [(part.to(torch.bfloat16) @ peer).amax(dim=1) for part in signed.split(1 << 16)]
            torch.topk(torch.cat(parts), n // 20)

        calls["torch, widened"] = widened
    operations = 2 * n * PROJ_DIM * columns
    name = f"{n} × {PROJ_DIM}, {dtype}, {columns} columns, top 5%"
    return Case("score_rows", name, rows.nbytes, operations, RATES.get(dtype, "int8"), calls, [None], (n, "row"))
