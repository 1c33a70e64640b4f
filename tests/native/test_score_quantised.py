"""Scores of rows of 8, 4 and 1 bit, which meet their targets as integers: on every instruction set, against the
float64 scores of the dequantised rows, and bit for bit among themselves."""

import subprocess
import sys

import numpy as np
import pytest

from gradsift import ops
from gradsift.ops.quantise import reference as quantised
from gradsift.ops.score_rows import BlockScores, RowScorer
from gradsift.ops.score_rows.blocks import STATUS_NONFINITE, STATUS_ZERO

BITS = {"int8": 8, "int4": 4, "int1": 1}
SEED = 0x1234_5678_9ABC_DEF0

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(params=BITS)
def dtype(request):
    return request.param


def normal_rows(rng, n, dim, dtype, seed=SEED):
    return ops.quantise_rows(rng.standard_normal((n, dim), dtype=np.float32), bits=BITS[dtype], seed=seed)


def unit_targets(rng, columns, dim):
    targets = rng.standard_normal((columns, dim))
    return (targets / np.linalg.norm(targets, axis=1, keepdims=True)).astype(np.float32)


def scores_of(codes, scales, targets, dtype, seed=SEED, **options):
    out = np.empty((len(codes), len(targets)), np.float32)
    RowScorer([targets], [1.0], [dtype], seeds=[seed], **options).score(
        [codes], BlockScores(scores=out), scales=[scales]
    )
    return out


def rotated_back(y, seed=SEED):
    """The target whose rotation is y."""
    dim = y.shape[1]
    hadamard = quantised._hadamard(y.astype(np.float64)) / np.sqrt(dim)
    return (hadamard * quantised.rotation_signs(seed, dim)).astype(np.float32)


def step_of(targets, dtype, seed=SEED):
    """What a column is rounded to multiples of: its numbers, or for signs the sums of four."""
    y = quantised._hadamard(targets.astype(np.float64) * quantised.rotation_signs(seed, targets.shape[1]))
    y = np.abs(y) / np.sqrt(targets.shape[1])
    return (y.reshape(len(y), -1, 4).sum(axis=2) if dtype == "int1" else y).max(axis=1) / 127


@pytest.mark.parametrize(
    ("n", "columns", "dim"),
    [
        (1, 1, 256),
        (3, 2, 512),
        (63, 5, 256),
        (64, 6, 1024),
        (65, 7, 2048),
        (130, 17, 512),
        (70, 129, 256),
        (5, 3, 16384),
    ],
)
def test_scores_are_those_of_the_dequantised_rows_within_the_rounding_of_targets(isa, rng, dtype, n, columns, dim):
    rows, targets = normal_rows(rng, n, dim, dtype), unit_targets(rng, columns, dim)
    got = scores_of(rows.codes, rows.scales, targets, dtype)
    want = scores_of(rows.codes, rows.scales, targets, dtype, backend="reference")
    # Roundings are even and independent: of P numbers for codes of norm one, of P / 4 sums for signs of norm one.
    deviation = step_of(targets, dtype) / np.sqrt(12) / (2 if dtype == "int1" else 1)
    assert np.all(np.abs(got - want) <= 6 * deviation + 1e-6)
    assert np.abs(got - want).max() > 0 or columns * n < 10  # they are rounded, so the bound is of something


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("code", [-128, -127, 127])
def test_the_largest_codes_and_targets_meet_without_saturation(isa, dtype, code, sign):
    dim = 65536
    byte = {"int8": code & 0xFF, "int4": {-128: 0x88, -127: 0x99, 127: 0x77}[code], "int1": 0 if code > 0 else 0xFF}
    codes = np.full((2, dim * BITS[dtype] // 8), byte[dtype], np.uint8)
    codes[1, ::2] = 0
    numbers = quantised.unpack(codes, BITS[dtype]).astype(np.float64)
    y = np.full((3, dim), sign * 127.0)
    y[1, ::2], y[2, : dim // 2] = -y[1, ::2], 0.0
    got = scores_of(codes, np.ones(2, np.float32), rotated_back(y), dtype)
    want = numbers @ y.T / np.linalg.norm(numbers, axis=1, keepdims=True)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * 127 * np.sqrt(dim))


def test_integer_targets_are_met_exactly(isa, rng, dtype):
    dim = 1024
    y = rng.integers(-31, 32, (9, dim)).astype(np.float64)
    y[:, :4] = [31, 31, 31, 34]  # the largest sum of four is 127, so that the step of both kinds divides all numbers
    if dtype != "int1":
        y[:, 3] = 127
    rows = normal_rows(rng, 20, dim, dtype)
    numbers = quantised.unpack(rows.codes, BITS[dtype]).astype(np.float64)
    got = scores_of(rows.codes, rows.scales, rotated_back(y), dtype)
    want = numbers @ y.T / np.linalg.norm(numbers, axis=1, keepdims=True)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-7 * np.abs(want).max())


def test_every_instruction_set_gives_the_same_bits(native, rng, dtype):
    rows, targets = normal_rows(rng, 77, 4096, dtype), unit_targets(rng, 23, 4096)
    found = {}
    for level in native.isas():
        native.set_isa(level)
        found[level] = scores_of(rows.codes, rows.scales, targets, dtype)
    for level, scores in found.items():
        assert scores.tobytes() == found["scalar"].tobytes(), level


def test_no_bit_depends_on_threads_blocks_strides_or_other_columns(isa, rng, dtype):
    rows, targets = normal_rows(rng, 150, 512, dtype), unit_targets(rng, 19, 512)
    whole = scores_of(rows.codes, rows.scales, targets, dtype, threads=1)
    assert np.array_equal(scores_of(rows.codes, rows.scales, targets, dtype, threads=3), whole)
    for cuts in ([1, 65, 66, 140], [64, 128], [7, 14, 100]):
        parts = np.split(np.arange(150), cuts)
        cut = [scores_of(rows.codes[part], rows.scales[part], targets, dtype) for part in parts]
        assert np.array_equal(np.concatenate(cut), whole)
    apart = np.zeros((150, rows.codes.shape[1] + 5), np.uint8)
    apart[:, 3:-2] = rows.codes
    assert np.array_equal(scores_of(apart[:, 3:-2], rows.scales, targets, dtype), whole)
    order = rng.permutation(19)
    assert np.array_equal(scores_of(rows.codes, rows.scales, targets[order], dtype), whole[:, order])
    assert np.array_equal(scores_of(rows.codes, rows.scales, targets[4:5], dtype), whole[:, 4:5])


def test_equal_rows_tie_wherever_they_lie(isa, rng, dtype):
    one = normal_rows(rng, 1, 256, dtype)
    codes, scales = np.repeat(one.codes, 131, axis=0), np.geomspace(1e-20, 1e20, 131).astype(np.float32)
    scores = scores_of(codes, scales, unit_targets(rng, 9, 256), dtype)  # a scale is a row's length, not its direction
    assert np.array_equal(scores, np.repeat(scores[:1], 131, axis=0))


def test_rows_of_zeros_and_rows_without_codes_are_named_and_spoil_no_other(isa, rng, dtype):
    rows, targets = normal_rows(rng, 70, 256, dtype), unit_targets(rng, 3, 256)
    want = scores_of(rows.codes, rows.scales, targets, dtype)
    scales = rows.scales.copy()
    scales[[0, 63]], scales[[5, 69]] = 0.0, np.nan
    found = BlockScores(np.empty(70, np.float32), np.empty(70, np.int32), np.empty(70, np.uint8), want.copy())
    RowScorer([targets], [1.0], [dtype], seeds=[SEED]).score([rows.codes], found, scales=[scales])
    assert np.flatnonzero(found.status == STATUS_ZERO).tolist() == [0, 63]
    assert np.flatnonzero(found.status == STATUS_NONFINITE).tolist() == [5, 69]
    good = found.status == 0
    assert np.array_equal(found.scores[good], want[good])
    assert np.isnan(found.influence[~good]).all()


def test_another_seed_is_another_rotation(rng, dtype):
    rows, targets = normal_rows(rng, 8, 512, dtype, seed=3), unit_targets(rng, 4, 512)
    want = scores_of(rows.codes, rows.scales, targets, dtype, seed=3, backend="reference")
    assert np.abs(scores_of(rows.codes, rows.scales, targets, dtype, seed=3) - want).max() < 2e-2
    assert np.abs(scores_of(rows.codes, rows.scales, targets, dtype, seed=4) - want).max() > 2e-2


def test_a_target_of_zeros_scores_zero(isa, rng, dtype):
    rows = normal_rows(rng, 5, 256, dtype)
    assert not scores_of(rows.codes, rows.scales, np.zeros((2, 256), np.float32), dtype).any()


def test_targets_beyond_float32_once_rotated_are_refused(native, rng, dtype):
    rows = normal_rows(rng, 2, 256, dtype)
    with pytest.raises(ValueError, match="targets: expected numbers whose rotation float32 can hold"):
        scores_of(rows.codes, rows.scales, np.full((1, 256), 3e38, np.float32), dtype)


@pytest.mark.parametrize("dim", [128, 300, 768, 131072])
def test_a_width_that_no_quantised_row_has_is_refused(native, dtype, dim):
    with pytest.raises(ValueError, match=f"proj_dim: expected a power of two from 256 to 65536, got {dim}"):
        RowScorer([np.ones((1, dim), np.float32)], [1.0], [dtype])


def test_checkpoints_of_several_dtypes_add_up(isa, rng):
    targets = [unit_targets(rng, 5, 256) for _ in BITS]
    rows = [normal_rows(rng, 66, 256, dtype, seed=c) for c, dtype in enumerate(BITS)]
    weights, seeds = [0.5, 0.3, 0.2], [0, 1, 2]
    found = BlockScores(np.empty(66, np.float32), np.empty(66, np.int32), None, np.empty((66, 5), np.float32))
    RowScorer(targets, weights, list(BITS), seeds=seeds).score(
        [r.codes for r in rows], found, scales=[r.scales for r in rows]
    )
    each = [
        scores_of(r.codes, r.scales, t, d, seed=c) for c, (r, t, d) in enumerate(zip(rows, targets, BITS, strict=True))
    ]
    np.testing.assert_allclose(found.scores, np.tensordot(weights, np.array(each, np.float64), 1), rtol=0, atol=1e-7)
    assert np.array_equal(found.influence, found.scores.max(axis=1))
    assert np.array_equal(found.best, found.scores.argmax(axis=1))


GUARDED = """
import ctypes, mmap
import numpy as np
from gradsift import _native
from gradsift.ops.score_rows import BlockScores, RowScorer

page = mmap.PAGESIZE
memory = mmap.mmap(-1, 129 * page)
end = 128 * page
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
protect = ctypes.CDLL(None, use_errno=True).mprotect
protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
assert protect(start + end, page, 0) == 0
for level in _native.isas():
    _native.set_isa(level)
    for dtype, bits in (("int8", 8), ("int4", 4), ("int1", 1)):
        for dim in (256, 512, 2048):
            scorer = RowScorer([np.ones((3, dim), np.float32)], [1.0], [dtype])
            for n in (1, 2, 15, 63, 65):
                size = n * dim * bits // 8
                rows = np.frombuffer(memory, np.uint8, size, end - size).reshape(n, -1)
                out = BlockScores(scores=np.empty((n, 3), np.float32))
                print(level, dtype, dim, n, flush=True)
                scorer.score([rows], out, scales=[np.ones(n, np.float32)])
print("all")
"""


def test_nothing_is_read_past_the_last_byte_of_the_last_row(native):
    run = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, (run.stdout.splitlines()[-1:], run.stderr[-500:])
    assert run.stdout.endswith("all\n")
