"""`score_rows` on CUDA against its reference: ``python cases_score_rows.py [few|tiny]`` (see emulated.py)."""

import itertools
import sys

import ml_dtypes
import numpy as np
from emulated import Cases, guarded

from gradsift.ops.score_rows import cuda, reference
from gradsift.ops.score_rows.blocks import QUANTISED, ROW_FORMATS, BlockScores, Part

TINY = "tiny" in sys.argv[1:]  # for planted bugs and ThreadSanitizer
FEW = TINY or "few" in sys.argv[1:]
FORMATS = tuple(ROW_FORMATS)
NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
BUDGETS = {dtype: 2e-5 if dtype in QUANTISED else 1e-6 for dtype in FORMATS}  # docs/gpu.md
HIDE = 6
rng = np.random.default_rng(13)
cases = Cases()


def unit_columns(count, proj_dim):
    columns = rng.standard_normal((count, proj_dim)).astype(np.float32)
    return columns / np.linalg.norm(columns, axis=1, keepdims=True)


def stored(rows, dtype):
    """(rows as stored, scales): codes are drawn, not rounded, so that all of them come up."""
    if dtype not in QUANTISED:
        bits = rows.astype(NUMPY[dtype])
        return (bits.view(np.uint16) if dtype == "bfloat16" else bits), None
    n, proj_dim = rows.shape
    codes = rng.integers(0, 256, (n, proj_dim * ROW_FORMATS[dtype][1] // 8)).astype(np.uint8)
    if dtype == "int8":
        codes[codes == 128] = 127
    if dtype == "int4":
        codes = np.where(codes & 15 == 8, codes ^ 15, codes)
        codes = np.where(codes >> 4 == 8, codes ^ 0xF0, codes).astype(np.uint8)
    return codes, rng.uniform(0.1, 2.0, n).astype(np.float32)


def scored(run, blocks, targets, dtype, weights, *, reduce="max", excluded=None, place=np.copy, hide=HIDE):
    n, columns = len(blocks[0][0]), len(targets[0])
    out = BlockScores(
        place(np.full(n, 7, np.float32)), place(np.full(n, -7, np.int32)), place(np.full(n, 77, np.uint8)),
        place(np.full((n, columns), 7, np.float32)),
    )  # fmt: skip
    parts = [
        Part(run.prepare_targets(target, dtype, 3), rows, scales, weight)
        for (rows, scales), target, weight in zip(blocks, targets, weights, strict=True)
    ]
    run.score_rows(parts, out, reduce=reduce, excluded=excluded, hide=hide, threads=None)
    return out


def compare(name, blocks, targets, dtype, weights=(1.0,), **how):
    own = [(guarded(rows), None if scales is None else guarded(scales)) for rows, scales in blocks]
    got = scored(cuda, own, targets, dtype, weights, place=guarded, **how)
    want = scored(reference, blocks, targets, dtype, weights, **how)
    cases.equal(f"{name}: status", got.status, want.status)
    cases.equal(f"{name}: which are NaN", np.isnan(got.scores), np.isnan(want.scores))
    error = np.abs(got.scores - want.scores)
    worst = float(np.nanmax(error, initial=0))
    cases.check(
        f"{name}: scores", worst <= BUDGETS[dtype], f"expected errors of at most {BUDGETS[dtype]}, got {worst:.3g}"
    )
    # of its own scores, exactly: the first of the highest, or their mean
    seen = ~np.isnan(got.scores).any(axis=1)
    best = np.where(seen, np.where(np.isnan(got.scores), 0, got.scores).argmax(axis=1), 0)
    cases.equal(f"{name}: best", got.best, best.astype(np.int32))
    own_influence = got.scores[np.arange(len(best)), best]
    if how.get("reduce") == "mean":
        own_influence = want.influence
        worst = float(np.nanmax(np.abs(got.influence - own_influence), initial=0))
        cases.check(f"{name}: mean", worst <= BUDGETS[dtype], f"got an error of {worst:.3g}")
    else:
        cases.equal(f"{name}: influence", got.influence, own_influence)
    if FEW:
        return got
    influence = guarded(np.full(len(best), 7, np.float32))
    parts = [
        Part(cuda.prepare_targets(target, dtype, 3), rows, scales, weight)
        for (rows, scales), target, weight in zip(own, targets, weights, strict=True)
    ]
    settings = {"reduce": "max", "excluded": None, "hide": HIDE} | how
    cuda.score_rows(parts, BlockScores(influence), threads=None, **settings)
    cases.equal(f"{name}: influence alone", influence, got.influence)
    return got


# The best k, kept while blocks come in, against a sort of all.
def check_top(name, influence, k, cuts):
    best = rng.integers(0, 9, len(influence)).astype(np.int32)
    bounds = [0, *cuts, len(influence)]
    top = cuda.TopRows(k, max(np.diff(bounds)), influence)
    for first, stop in itertools.pairwise(bounds):
        top.add(guarded(influence[first:stop]), guarded(best[first:stop]), first)
    rows, scores, columns = top.finish()
    order = np.argsort(-influence, kind="stable")
    order = order[~np.isnan(influence[order])][:k]
    cases.check(f"{name}: rows", np.array_equal(rows, order), f"got {rows[:9]} of {len(rows)}, expected {order[:9]}")
    cases.check(f"{name}: influence", np.array_equal(scores, influence[order]))
    cases.check(f"{name}: columns", np.array_equal(columns, best[order]))


if TINY:
    for dtype in FORMATS:
        proj_dim = 2048 if dtype in QUANTISED else 1536
        targets = unit_columns(18, proj_dim)
        targets[7] = targets[2]
        compare(f"{dtype}, tiny", [stored(rng.standard_normal((37, proj_dim)), dtype)], [targets], dtype)
    whole = rng.integers(-3, 4, (37, 256)) * 0.5
    columns = np.repeat(rng.integers(-1, 2, (3, 256)), 3, axis=0).astype(np.float32)
    compare("ties, tiny", [stored(whole, "bfloat16")], [columns], "bfloat16")
    halves = (rng.integers(-9, 9, 2600) / 2).astype(np.float32)
    halves[5::31] = np.nan
    check_top("top, tiny", halves, 70, (300, 500, 700, 1100))
    cases.end()

# Rows before, at and after the ends of a warp's and a block's; columns likewise; every kernel; several stages.
SIZES = [(1, 256, 1), (33, 512, 10), (257, 256, 16), (40, 768, 17), (31, 1024, 64), (9, 512, 65), (5, 256, 131)]
for dtype in FORMATS:
    for n, proj_dim, columns in SIZES[:: 3 if FEW else 1]:
        proj_dim = 512 if dtype in QUANTISED and proj_dim == 768 else proj_dim
        rows = rng.standard_normal((n, proj_dim)) * 0.01
        compare(f"{dtype}, {n} x {proj_dim}, {columns} columns", [stored(rows, dtype)],
                [unit_columns(columns, proj_dim)], dtype)  # fmt: skip

# Several checkpoints, weights, means, rows that are to be left out.
for dtype in FORMATS:
    rows = [stored(rng.standard_normal((20, 256)), dtype) for _ in range(3)]
    excluded = guarded((np.arange(20) % 7 == 3).astype(np.uint8))
    targets = [unit_columns(5, 256) for _ in rows]
    for reduce in ("max", "mean"):
        compare(f"{dtype}, three checkpoints, {reduce}", rows, targets, dtype, (0.5, 0.3, 0.2), reduce=reduce,
                excluded=excluded)  # fmt: skip
    own = [guarded(np.full((20, 5), 7, np.float32)) for _ in rows]
    parts = [Part(cuda.prepare_targets(t, dtype, 3), *r, 0.3, o) for t, r, o in zip(targets, rows, own, strict=True)]
    cuda.score_rows(parts, BlockScores(), reduce="max", excluded=None, hide=HIDE, threads=None)
    for c, (block, target) in enumerate(zip(rows, targets, strict=True)):
        want = scored(reference, [block], [target], dtype, (1.0,)).scores
        cases.check(f"{dtype}, checkpoint {c} alone", np.abs(own[c] - want).max() <= BUDGETS[dtype])
rows = rng.standard_normal((6, 256))
rows[-1, 9] = np.nan  # no best column that the second group could look up
compare("mean over column groups", [stored(rows, "bfloat16")], [unit_columns(150, 256)], "bfloat16", reduce="mean")

# Rows of floats that float32 has no squared norm of, zeros, NaN and infinities; any alignment; ends inside 16 bytes.
for dtype in ("float32", "float16", "bfloat16"):
    for proj_dim in (256, 77):
        rows = rng.uniform(0.5, 2.0, (12, proj_dim))
        if dtype != "float16":
            rows[1] *= 1e-30
            rows[2] *= 1e30
        rows[3] = 0.0
        rows[4, 5], rows[5, 0], rows[6, proj_dim - 1] = np.nan, np.inf, -np.inf
        for hide in (2, HIDE):
            compare(f"{dtype}, odd rows, P {proj_dim}, hide {hide}", [stored(rows, dtype)], [unit_columns(3, proj_dim)],
                    dtype, hide=hide)  # fmt: skip
    two = [stored(np.where(np.arange(12)[:, None] == 3 + c, 0, rows), dtype) for c in (0, 1)]
    compare(f"{dtype}, odd rows, two checkpoints", two, [unit_columns(3, proj_dim)] * 2, dtype, (0.25, 0.75))
    apart = guarded(stored(rng.standard_normal((9, 259)), dtype)[0])[:, 1:257]
    got = scored(cuda, [(apart, None)], [unit := unit_columns(4, 256)], dtype, (1.0,), place=guarded)
    want = scored(reference, [(apart, None)], [unit], dtype, (1.0,))
    cases.check(f"{dtype}, rows apart", np.abs(got.scores - want.scores).max() <= BUDGETS[dtype])

for dtype in QUANTISED:
    rows, scales = stored(np.ones((9, 256)), dtype)
    scales[2], scales[4] = 0, np.nan
    for hide in (2, HIDE):
        compare(f"{dtype}, zero and NaN, hide {hide}", [(rows, scales)], [unit_columns(12, 256)], dtype, hide=hide)

# Where rounding has no part: integers give the reference's bits; equal rows and equal columns tie.
for dtype in ("float32", "float16", "bfloat16"):
    rows = np.zeros((300, 256))
    rows[:, :64] = rng.choice([-1.0, 1.0], (300, 64))  # norms of 8
    rows[7::5] = rows[2]
    targets = rng.integers(-4, 5, (11, 256)).astype(np.float32)
    targets[6] = targets[3]
    got = compare(f"{dtype}, integers", [stored(rows, dtype)], [targets], dtype)
    want = scored(reference, [stored(rows, dtype)], [targets], dtype, (1.0,))
    cases.equal(f"{dtype}, integers: bits", got.scores, want.scores)
    cases.equal(f"{dtype}, integers: best", got.best, want.best)
for dtype in FORMATS:
    rows, scales = stored(rng.standard_normal((300, 256)), dtype)
    rows[1:] = rows[0]
    targets = unit_columns(20, 256)
    alike = scored(cuda, [(guarded(rows), scales)], [targets], dtype, (1.0,), place=guarded)
    cases.check(f"{dtype}, equal rows", (alike.scores == alike.scores[0]).all())
    few = scored(cuda, [(guarded(rows[:1]), scales)], [targets], dtype, (1.0,), place=guarded)
    cases.equal(f"{dtype}, one row alone", few.scores, alike.scores[:1])


floats = rng.standard_normal(9000).astype(np.float32)
ties = rng.integers(-2, 3, 9000).astype(np.float32) / 2  # zeros of both signs among them
ties[::97] = np.nan
rising = np.sort(floats)
for name, values in (("floats", floats), ("ties", ties), ("rising", rising), ("falling", rising[::-1].copy())):
    for k in (1, 50, 700, 8999, 20000)[:: 2 if FEW else 1]:
        check_top(f"top {k} of {name}", values, k, (300, 301, 2349, 4400, 6000, 7500))
check_top("top of one block", floats, 10, ())
check_top("top of NaN alone", np.full(5000, np.nan, np.float32), 10, (2000,))
cases.end()
