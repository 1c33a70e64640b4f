"""Scores of float rows on every instruction set: against float64, bit for bit among themselves, over checkpoints."""

import numpy as np
import pytest

from gradsift.ops.score_rows import BlockScores, RowScorer

BUDGET = 1e-6
DTYPES = ("float32", "float16", "bfloat16")

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


def stored(rows, dtype):
    """float32 rows as a store has them; bfloat16 as its bits, cut."""
    if dtype == "bfloat16":
        return (np.ascontiguousarray(rows, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return rows.astype(dtype)


def unit_targets(rng, columns, dim):
    targets = rng.standard_normal((columns, dim))
    return (targets / np.linalg.norm(targets, axis=1, keepdims=True)).astype(np.float32)


def scores_of(rows, targets, dtype, **options):
    out = np.full((len(rows), len(targets)), np.nan, np.float32)
    RowScorer([targets], [1.0], [dtype], **options).score([rows], BlockScores(scores=out))
    return out


@pytest.mark.parametrize(
    ("n", "columns", "dim"),
    [
        (1, 1, 1),
        (2, 3, 31),
        (5, 6, 33),
        (63, 5, 257),
        (64, 12, 1024),
        (65, 7, 2049),
        (9, 23, 1023),
        (6, 129, 300),
        (130, 70, 4096),
    ],
)
def test_scores_are_those_of_float64(isa, rng, dtype, n, columns, dim):
    rows, targets = stored(rng.standard_normal((n, dim)), dtype), unit_targets(rng, columns, dim)
    want = scores_of(rows, targets, dtype, backend="reference")
    # A target as two bfloat16 numbers is off by 2.5e-6 of itself (root mean square), six deviations at most in all.
    budget = max(BUDGET, 6 * 2.5e-6 / np.sqrt(dim)) if dtype == "bfloat16" else BUDGET
    np.testing.assert_allclose(scores_of(rows, targets, dtype), want, rtol=0, atol=budget)


def test_integers_are_met_exactly(isa, rng, dtype):
    rows = stored(rng.integers(-4, 5, (70, 515)).astype(np.float32), dtype)
    targets = rng.integers(-4, 5, (13, 515)).astype(np.float32)
    np.testing.assert_array_equal(scores_of(rows, targets, dtype), scores_of(rows, targets, dtype, backend="reference"))


def test_no_bit_depends_on_threads_blocks_strides_or_other_columns(isa, rng, dtype):
    rows, targets = stored(rng.standard_normal((150, 1100)), dtype), unit_targets(rng, 19, 1100)
    whole = scores_of(rows, targets, dtype, threads=1)
    assert np.array_equal(scores_of(rows, targets, dtype, threads=3), whole)
    for cuts in ([1, 65, 66, 140], [64, 128], [7, 14, 100]):
        parts = [scores_of(part, targets, dtype) for part in np.split(rows, cuts)]
        assert np.array_equal(np.concatenate(parts), whole), cuts
    wide = np.zeros((150, 1107), rows.dtype)
    wide[:, 5:1105] = rows
    assert np.array_equal(scores_of(wide[:, 5:1105], targets, dtype), whole)
    assert np.array_equal(scores_of(rows[::-1], targets, dtype), whole[::-1])
    for column in (0, 4, 18):
        assert np.array_equal(scores_of(rows, targets[column : column + 1], dtype)[:, 0], whole[:, column])


def test_a_wide_pack_reads_rows_in_stripes_to_the_same_bits(isa, rng, dtype):
    """More columns than the second-level cache holds are met piece by piece by 64 rows at once."""
    rows, targets = stored(rng.standard_normal((70, 8192)), dtype), unit_targets(rng, 40, 8192)
    whole = scores_of(rows, targets, dtype)
    assert np.array_equal(scores_of(rows, targets[17:18], dtype)[:, 0], whole[:, 17])


def test_status_tells_zeros_from_what_is_not_finite_and_spoils_no_other_row(isa, rng, dtype):
    numbers = rng.standard_normal((12, 300)).astype(np.float32)
    numbers[3], numbers[5, 299], numbers[8, 0], numbers[10, 7] = 0.0, np.nan, np.inf, -np.inf
    rows, targets = stored(numbers, dtype), unit_targets(rng, 3, 300)
    out = BlockScores(np.empty(12, np.float32), np.empty(12, np.int32), np.empty(12, np.uint8))
    RowScorer([targets], [1.0], [dtype]).score([rows], out)
    assert out.status.tolist() == [0, 0, 0, 4, 0, 2, 0, 0, 2, 0, 2, 0]
    good = out.status == 0
    want = scores_of(rows[good], targets, dtype)
    np.testing.assert_array_equal(out.influence[good], want.max(axis=1))
    np.testing.assert_array_equal(out.best[good], want.argmax(axis=1))
    assert np.isnan(out.influence[~good]).all()


@pytest.mark.parametrize("scale", [2.0**-126, 2.0**-70, 2.0**70, 2.0**120])
def test_rows_beyond_the_range_of_float32_squares_score_as_they_are(isa, rng, scale):
    rows, targets = rng.uniform(0.5, 2.0, (5, 300)).astype(np.float32), unit_targets(rng, 3, 300)
    for dtype in ("float32", "bfloat16"):
        scaled = stored(rows * np.float32(scale), dtype)
        want = scores_of(scaled, targets, dtype, backend="reference")
        np.testing.assert_allclose(scores_of(scaled, targets, dtype), want, rtol=0, atol=BUDGET)


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_checkpoints_of_several_dtypes_are_weighted_and_reduced(isa, rng, reduce):
    targets, weights = [unit_targets(rng, 4, 260) for _ in DTYPES], [0.5, 0.3, 0.2]
    rows = [stored(rng.standard_normal((90, 260)), dtype) for dtype in DTYPES]
    excluded = np.zeros(90, np.uint8)
    excluded[::7] = 1
    found = {}
    for backend in ("cpu", "reference"):
        scorer = RowScorer(targets, weights, DTYPES, reduce=reduce, backend=backend)
        out = BlockScores(np.empty(90, np.float32), scores=np.empty((90, 4), np.float32))
        scorer.score(rows, out, excluded=excluded)
        found[backend] = out
    np.testing.assert_allclose(found["cpu"].scores, found["reference"].scores, rtol=0, atol=BUDGET)
    np.testing.assert_allclose(found["cpu"].influence, found["reference"].influence, rtol=0, atol=BUDGET)
    assert np.array_equal(np.isnan(found["cpu"].influence), excluded != 0)


def test_the_scores_of_single_checkpoints_add_up_to_the_bits_of_all(isa, rng):
    targets, weights = [unit_targets(rng, 4, 260) for _ in range(2)], [0.7, 0.3]
    rows = [stored(rng.standard_normal((90, 260)), "bfloat16") for _ in range(2)]
    scorer = RowScorer(targets, weights, ["bfloat16"] * 2)
    out, total = BlockScores(scores=np.empty((90, 4), np.float32)), np.zeros((90, 4))
    scorer.score(rows, out)
    for c, weight in enumerate(weights):
        alone = np.empty((90, 4), np.float32)
        scorer.score_checkpoint(c, rows[c], alone)
        total += weight * alone.astype(np.float64)
    np.testing.assert_array_equal(out.scores, total.astype(np.float32))


def test_targets_that_bfloat16_holds_meet_bfloat16_rows_as_they_are(isa, rng):
    rows = stored(rng.standard_normal((40, 1024)), "bfloat16")
    targets = (unit_targets(rng, 8, 1024).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    want = scores_of(rows, targets, "bfloat16", backend="reference")
    np.testing.assert_allclose(scores_of(rows, targets, "bfloat16"), want, rtol=0, atol=BUDGET)
