"""`score_rows` on a card: against float64, and where only a card can tell."""

import numpy as np
import pytest

from gradsift import ops
from gradsift.ops.score_rows import BlockScores, RowScorer
from gradsift.ops.score_rows.blocks import QUANTISED

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

# docs/gpu.md; tensor cores cut off what they add, which the emulator does not show
BUDGETS = {"float32": 1e-6, "float16": 1e-6, "bfloat16": 1e-6, "int8": 2e-5, "int4": 2e-5, "int1": 2e-5}
DTYPES = tuple(BUDGETS)
BITS = {"int8": 8, "int4": 4, "int1": 1}


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def stored(rows, dtype):
    """(rows as stored, scales, what they stand for in float64), rows and scales on the device."""
    if dtype not in QUANTISED:
        tensor = torch.from_numpy(rows).to("cuda", getattr(torch, dtype))
        return tensor, None, tensor.double().cpu().numpy()
    found = ops.quantise_rows(torch.from_numpy(rows).cuda(), bits=BITS[dtype], seed=9)
    back = ops.dequantise_rows(found.codes, found.scales, bits=BITS[dtype], seed=9)
    return found.codes, found.scales, back.double().cpu().numpy()


def outputs(n, columns):
    return BlockScores(
        torch.full((n,), 7.0, device="cuda"), torch.full((n,), -7, dtype=torch.int32, device="cuda"),
        torch.full((n,), 77, dtype=torch.uint8, device="cuda"), torch.full((n, columns), 7.0, device="cuda"),
    )  # fmt: skip


def cosines(rows, targets):
    return rows @ targets.astype(np.float64).T / np.linalg.norm(rows, axis=1)[:, None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "proj_dim", "columns"), [(700, 8192, 10), (33, 1024, 100), (5, 65536, 131), (1, 256, 1)])
def test_scores_are_the_cosines_within_the_budget(rng, dtype, n, proj_dim, columns):
    targets = unit(rng.standard_normal((columns, proj_dim)))
    raw = rng.standard_normal((n, proj_dim)).astype(np.float32)
    raw[0] = targets[0]  # a cosine near one, whose sum grows all along
    rows, scales, numbers = stored(raw, dtype)
    scorer = RowScorer([targets], [1.0], [dtype], seeds=[9], device="cuda")
    out = outputs(n, columns)
    scorer.score([rows], out, scales=[scales])
    scores = out.scores.cpu().numpy()
    np.testing.assert_allclose(scores, cosines(numbers, targets), atol=BUDGETS[dtype], rtol=0)
    np.testing.assert_array_equal(out.best.cpu().numpy(), scores.argmax(axis=1))
    np.testing.assert_array_equal(out.influence.cpu().numpy(), scores.max(axis=1))
    assert not out.status.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_scores_the_same_bits_wherever_it_lies_and_whatever_the_block(rng, dtype):
    rows, scales, _ = stored(rng.standard_normal((3000, 1024)).astype(np.float32), dtype)
    rows[1::2] = rows[0]
    targets = unit(rng.standard_normal((12, 1024)))
    scorer = RowScorer([targets], [1.0], [dtype], seeds=[9], device="cuda")
    whole = outputs(3000, 12)
    scorer.score([rows], whole, scales=[scales])
    assert (whole.scores[1::2] == whole.scores[0]).all()
    for first, stop in ((0, 1), (1, 257), (257, 3000)):
        part = outputs(stop - first, 12)
        scorer.score([rows[first:stop]], part, scales=[None if scales is None else scales[first:stop]])
        assert torch.equal(part.scores, whole.scores[first:stop])


def test_runs_repeat_to_the_bit(rng):
    rows = torch.randn(50_000, 2048, device="cuda", dtype=torch.bfloat16)
    targets = unit(rng.standard_normal((40, 2048)))
    first = ops.score_rows(rows, targets)
    assert all(torch.equal(ops.score_rows(rows, targets), first) for _ in range(5))


def test_odd_rows_are_told_apart_from_their_neighbours(rng):
    rows = rng.uniform(0.5, 2, (400, 512)).astype(np.float32)
    rows[3], rows[5, 7], rows[6, 511] = 0, np.nan, -np.inf
    rows[8] *= np.float32(1e-30)
    rows[9] *= np.float32(1e30)
    targets = unit(rng.standard_normal((3, 512)))
    scorer = RowScorer([targets], [1.0], ["float32"], device="cuda")
    out = outputs(400, 3)
    scorer.score([torch.from_numpy(rows).cuda()], out)
    status = out.status.cpu().numpy()
    assert {int(i): int(status[i]) for i in np.flatnonzero(status)} == {3: 4, 5: 2, 6: 2}
    good = status == 0
    np.testing.assert_allclose(
        out.scores.cpu().numpy()[good], cosines(rows[good].astype(np.float64), targets), atol=BUDGETS["float32"], rtol=0
    )
    assert np.isnan(out.influence.cpu().numpy()[~good]).all()


def test_rows_beyond_two_gigabytes_are_reached(rng):
    n = (5 << 30) // (2 * 8192)
    rows = torch.zeros(n, 8192, dtype=torch.bfloat16, device="cuda")
    rows[:, 0] = 1
    rows[n - 1] = torch.from_numpy(rng.standard_normal(8192)).to("cuda", torch.bfloat16)
    targets = unit(rng.standard_normal((2, 8192)))
    got = ops.score_rows(rows, targets)[[0, n - 1]].cpu().numpy()
    np.testing.assert_allclose(
        got, cosines(rows[[0, n - 1]].double().cpu().numpy(), targets), atol=BUDGETS["float32"], rtol=0
    )


@pytest.mark.parametrize("k", [1, 1000, 50_000])
def test_the_best_rows_are_those_of_a_sort(rng, k):
    from gradsift.ops.score_rows.cuda import TopRows

    influence = rng.integers(-(2**20), 2**20, 300_000).astype(np.float32)
    influence[::1001] = np.nan
    best = rng.integers(0, 9, 300_000).astype(np.int32)
    on_card, columns = torch.from_numpy(influence).cuda(), torch.from_numpy(best).cuda()
    top = TopRows(k, 65536, on_card)
    for first in range(0, 300_000, 65536):
        top.add(on_card[first : first + 65536], columns[first : first + 65536], first)
    rows, scores, found = top.finish()
    order = np.argsort(-influence, kind="stable")[:k]
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(scores, influence[order])
    np.testing.assert_array_equal(found, best[order])


def test_kernels_run_on_the_callers_stream(rng):
    targets = unit(rng.standard_normal((4, 4096)))
    rows = torch.randn(20_000, 4096, device="cuda")
    want = ops.score_rows(rows, targets)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(rows)
        torch.cuda._sleep(20_000_000)
        late.copy_(rows)
        got = ops.score_rows(late, targets)
    stream.synchronize()
    assert torch.equal(got, want)
