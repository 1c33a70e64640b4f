"""`quantise_rows`, `dequantise_rows`: the bytes of docs/datastore-format.md from every backend, and what they mean."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from gradsift import ops
from gradsift.ops.quantise import reference

BITS = (8, 4, 1)
SEED = 2**63 + 11
QUIET_NAN = struct.pack("<I", 0x7FC00000)


def spread(rng, n, proj_dim):
    """Rows of very different lengths and tails."""
    return (rng.standard_t(2.5, (n, proj_dim)) * 10.0 ** rng.integers(-12, 12, (n, 1))).astype(np.float32)


def special(rng, proj_dim):
    """Zeros, NaN, Inf, a spike, norms at and beyond what codes can hold, two rows that cancel, −0."""
    rows = np.zeros((10, proj_dim), np.float32)
    rows[1, 5], rows[2, proj_dim - 1], rows[3, 7] = np.nan, -np.inf, 1e10
    rows[4, 0], rows[5, 0], rows[6, 0], rows[7, 0] = 2.0**-100, 2.0**100, 2.0**-101, 2.0**101
    rows[8, :2] = 1.0, -1.0
    rows[9] = -0.0
    return rows


def both(rows, bits, backend, **options):
    return [ops.quantise_rows(rows, bits=bits, seed=SEED, backend=b, **options) for b in (backend, "reference")]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("n", "proj_dim"), [(0, 256), (1, 256), (9, 512), (17, 1024), (3, 2048), (2, 8192), (1, 65536)]
)
def test_every_backend_writes_and_reads_the_bytes_of_the_reference(rng, backend, n, proj_dim, bits):
    got, want = both(spread(rng, n, proj_dim), bits, backend)
    assert got.codes.shape == (n, proj_dim * bits // 8)
    for name in ("codes", "scales", "norms"):
        assert getattr(got, name).tobytes() == getattr(want, name).tobytes()
    rows = [
        ops.dequantise_rows(want.codes, want.scales, bits=bits, seed=SEED, backend=b) for b in (backend, "reference")
    ]
    assert rows[0].tobytes() == rows[1].tobytes()


@pytest.mark.parametrize("bits", BITS)
def test_special_rows_have_the_same_bytes_everywhere(rng, backend, bits):
    got, want = both(special(rng, 256), bits, backend)
    for name in ("codes", "scales", "norms"):
        assert getattr(got, name).tobytes() == getattr(want, name).tobytes()
    back = ops.dequantise_rows(got.codes, got.scales, bits=bits, seed=SEED, backend=backend)
    for row in (0, 9):
        assert back[row].tobytes() == bytes(4 * 256)
        assert (got.scales[row], got.norms[row]) == (0, 0)
    for row in (1, 2, 6, 7):
        assert back[row].tobytes() == QUIET_NAN * 256
        assert got.scales[row].tobytes() == QUIET_NAN
        assert not got.codes[row].any()
    np.testing.assert_array_equal(got.norms[[3, 4, 5, 6, 7]], [1e10, 2.0**-100, 2.0**100, 2.0**-101, 2.0**101])
    assert np.isnan(got.norms[[1, 2]]).all()
    for row in (3, 4, 5):  # a spike is spread evenly by the rotation: codes of one size, which add up to a spike
        assert np.argmax(np.abs(back[row])) == np.argmax(np.abs(special(rng, 256)[row]))
        assert np.count_nonzero(back[row]) == 1


@pytest.mark.parametrize("bits", BITS)
def test_any_bytes_are_read_alike_as_codes(rng, backend, bits):
    codes = rng.integers(0, 256, (5, 64 * bits), dtype=np.uint8)
    codes[0] = 0x80 if bits == 8 else 0x88  # −128 and −8, which nothing writes
    scales = np.array([1, -2, 1e38, 1e-38, 0.1], np.float32)
    got, want = (ops.dequantise_rows(codes, scales, bits=bits, seed=SEED, backend=b) for b in (backend, "reference"))
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("bits", BITS)
def test_threads_strides_and_batches_change_no_byte(rng, backend, bits):
    room = np.full((41, 700), np.nan, np.float32)
    rows = room[::2, 100:612]
    rows[:] = spread(rng, 21, 512)
    whole = ops.quantise_rows(rows, bits=bits, seed=SEED, backend=backend, threads=1)
    again = ops.quantise_rows(rows.copy(), bits=bits, seed=SEED, backend=backend, threads=3)
    for name in ("codes", "scales", "norms"):
        parts = [ops.quantise_rows(rows[a : a + 5], bits=bits, seed=SEED, backend=backend) for a in range(0, 21, 5)]
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert getattr(again, name).tobytes() == getattr(whole, name).tobytes() == joined.tobytes()
    wide = np.zeros((21, whole.codes.shape[1] + 9), np.uint8)
    wide[:, 3:-6] = whole.codes
    want = ops.dequantise_rows(whole.codes, whole.scales, bits=bits, seed=SEED, backend=backend, threads=1)
    out = np.full((21, 600), 7, np.float32)
    got = ops.dequantise_rows(
        wide[:, 3:-6], whole.scales, bits=bits, seed=SEED, backend=backend, threads=3, out=out[:, 40:552]
    )
    np.testing.assert_array_equal(got, want)
    assert (out[:, :40] == 7).all()
    assert (out[:, 552:] == 7).all()


def test_the_rotation_is_the_signed_hadamard_matrix(rng):
    """Entry by entry from its definition, on integers, which are exact."""
    P = 256
    x = rng.integers(-9, 10, (3, P)).astype(np.float32)
    H = np.array([[(-1) ** (i & j).bit_count() for j in range(P)] for i in range(P)])
    signs = reference.rotation_signs(SEED, P)
    np.testing.assert_array_equal(reference.rotate(x, SEED), (x * signs) @ H)
    assert set(signs) == {-1.0, 1.0}
    assert (reference.rotation_signs(SEED ^ 1, P) != signs).any()
    assert (reference.rotation_signs(SEED ^ 1 << 63, P) != signs).any()


def test_codes_are_the_rotated_row_in_steps_and_stand_where_the_document_says(rng, backend):
    x = rng.normal(size=(4, 512)).astype(np.float32)
    y = reference.rotate(x, SEED).astype(np.float64)
    norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    for bits, clip, largest in ((8, 4.5, 127), (4, 2.7, 7)):
        found = ops.quantise_rows(x, bits=bits, seed=SEED, backend=backend)
        want = np.clip(y * largest / (clip * norms), -largest, largest)
        if bits == 8:
            numbers = found.codes.view(np.int8).astype(float)
        else:
            numbers = np.empty((4, 512))
            numbers[:, ::2], numbers[:, 1::2] = found.codes & 15, found.codes >> 4
            numbers[numbers > 7] -= 16
        assert np.abs(numbers - want).max() < 0.5 + 1e-4
        assert np.abs(numbers).max() == largest if bits == 4 else np.abs(numbers).max() > 80
        np.testing.assert_allclose(found.scales[:, None], clip * norms / (512 * largest), rtol=1e-7)
        np.testing.assert_allclose(found.norms[:, None], norms, rtol=1e-14)
    found = ops.quantise_rows(x, bits=1, seed=SEED, backend=backend)
    bit = found.codes[:, np.arange(512) // 8] >> (np.arange(512) % 8) & 1
    np.testing.assert_array_equal(bit == 1, y < 0)
    np.testing.assert_allclose(found.scales[:, None], norms / 512, rtol=1e-7)


def unrotated(y):
    """The row that rotates to `y`: exact where y is of few bits."""
    signs = reference.rotation_signs(SEED, len(y))
    return reference.rotate((y * signs)[None].astype(np.float32), SEED) * signs / np.float32(len(y))


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (4, 7)])
def test_codes_end_at_the_largest(backend, bits, largest):
    y = np.zeros(256)
    y[3], y[9] = 256.0, -256.0  # eleven standard deviations
    codes = ops.quantise_rows(unrotated(y), bits=bits, seed=SEED, backend=backend).codes
    want = np.zeros(256)
    want[3], want[9] = largest, -largest
    np.testing.assert_array_equal(reference.unpack(codes, bits)[0], want)


def row_with_halves(largest, clip):
    """Numbers, most of them odd, whose norm is such that one is half a step to the last bit of float32."""
    left = round((16 * 128 * 2 * largest / clip) ** 2)  # in squares of 1/128
    odd = 2 * np.random.default_rng(3).integers(-largest // 4, largest // 4, 200) + 1
    y = [128 * int(v) for v in odd]
    left -= sum(v * v for v in y)
    for place in range(56, 0, -1):
        y.append(math.isqrt(left // max(place - 8, 1)))
        left -= y[-1] ** 2
    assert left == 0
    return np.array(y) / 128


@pytest.mark.parametrize(("bits", "largest", "clip"), [(8, 127, 4.5), (4, 7, 2.7)])
def test_halves_go_to_the_even_code(backend, bits, largest, clip):
    y = row_with_halves(largest, clip)
    x = unrotated(y)
    np.testing.assert_array_equal(reference.rotate(x, SEED)[0], y)
    found = ops.quantise_rows(x, bits=bits, seed=SEED, backend=backend)
    assert np.float32(largest / (clip * found.norms[0])) == 0.5
    want = [max(-largest, min(largest, round(v / 2))) for v in y]  # Python rounds halves to even
    np.testing.assert_array_equal(reference.unpack(found.codes, bits)[0], want)


@pytest.mark.parametrize(("bits", "budget"), [(8, 0.011), (4, 0.122), (1, 0.65)])
@pytest.mark.parametrize("tail", [2.1, 3, 1000])
def test_heavy_tails_cost_no_more_than_gaussian_ones(rng, bits, budget, tail):
    x = rng.standard_t(tail, (20, 4096)).astype(np.float32)
    found = ops.quantise_rows(x, bits=bits, seed=SEED)
    back = ops.dequantise_rows(found.codes, found.scales, bits=bits, seed=SEED)
    assert np.max(np.linalg.norm(back - x, axis=1) / np.linalg.norm(x, axis=1)) < budget


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"rows": [[1.0]]}, TypeError, "rows: expected a NumPy array"),
        ({"rows": np.zeros((2, 256))}, TypeError, "rows: expected dtype float32, got float64"),
        ({"rows": np.zeros(256, np.float32)}, ValueError, r"rows: expected shape \(n, P\)"),
        ({"rows": np.zeros((2, 128), np.float32)}, ValueError, "rows: .*power of two from 256 to 65536, got P = 128"),
        ({"rows": np.zeros((2, 768), np.float32)}, ValueError, "rows: .*got P = 768"),
        ({"rows": np.zeros((1, 131072), np.float32)}, ValueError, "rows: .*got P = 131072"),
        ({"bits": 2}, ValueError, r"bits: expected one of \(8, 4, 1\), got 2"),
        ({"bits": True}, ValueError, "bits"),
        ({"bits": 8.0}, ValueError, r"bits: expected one of \(8, 4, 1\), got 8\.0"),
        ({"seed": -1}, ValueError, "seed: expected 0 … 2"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"seed": 0.0}, TypeError, "seed: expected an int, got float"),
        ({"threads": 0}, ValueError, "threads"),
        ({"backend": "cuda"}, ValueError, "backend"),
    ],
)
def test_wrong_arguments_are_refused_with_what_was_expected(change, error, match):
    arguments = {"rows": np.zeros((2, 256), np.float32), "bits": 8, "seed": 0, **change}
    with pytest.raises(error, match=match):
        ops.quantise_rows(arguments.pop("rows"), **arguments)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"codes": np.zeros((2, 256), np.int8)}, TypeError, "codes: expected dtype uint8, got int8"),
        ({"codes": np.zeros((2, 100), np.uint8)}, ValueError, "codes: .*got P = 200"),
        ({"scales": np.zeros(3, np.float32)}, ValueError, r"scales: expected shape \(2,\)"),
        ({"scales": np.zeros(2)}, TypeError, "scales: expected dtype float32"),
        ({"out": np.zeros((2, 256), np.float32)}, ValueError, r"out: expected shape \(2, 512\)"),
        ({"bits": 3}, ValueError, "bits"),
    ],
)
def test_wrong_codes_are_refused_with_what_was_expected(change, error, match):
    arguments = {
        "codes": np.zeros((2, 256), np.uint8),
        "scales": np.zeros(2, np.float32),
        "bits": 4,
        "seed": 0,
        **change,
    }
    with pytest.raises(error, match=match):
        ops.dequantise_rows(arguments.pop("codes"), arguments.pop("scales"), **arguments)


def best_twentieth(scores):
    return set(np.argsort(-scores, kind="stable")[: len(scores) // 20].tolist())


def heavy_tailed(rng, freedom, n=3000, proj_dim=1024):
    """Noise with a planted cosine of standard deviation 0.06, and the target it is planted along, a unit vector."""
    target = rng.normal(size=proj_dim)
    target /= np.linalg.norm(target)
    noise = rng.standard_t(freedom, (n, proj_dim))
    planted = 0.06 * np.linalg.norm(noise, axis=1, keepdims=True) * rng.normal(size=(n, 1)) * target
    return (noise + planted).astype(np.float32), target.astype(np.float32)[None]


def with_one_scale_for_all(rows, bits, seed):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.rint(unit * ((2 ** (bits - 1) - 1) / np.abs(unit).max()))


def left_of(rows, bits, seed):
    found = ops.quantise_rows(rows, bits=bits, seed=seed)
    return ops.dequantise_rows(found.codes, found.scales, bits=bits, seed=seed)


@pytest.fixture(scope="module", params=[2.1, 3])
def mean_recall(request):
    """`mean_recall(quantised, bits)`: of the best 5% by exact scores against float targets, over four draws."""
    draws = [heavy_tailed(np.random.default_rng(seed), request.param) for seed in range(4)]

    def measured(quantised, bits):
        recalls = []
        for seed, (rows, target) in enumerate(draws):
            want = best_twentieth(ops.score_rows(rows, target)[:, 0])
            got = best_twentieth(ops.score_rows(quantised(rows, bits, seed).astype(np.float32), target)[:, 0])
            recalls.append(len(want & got) / len(want))
        return np.mean(recalls)

    return measured


@pytest.mark.parametrize(("bits", "least"), [(8, 0.99), (4, 0.94), (1, 0.70)])
def test_the_best_of_heavy_tailed_rows_are_found_again(mean_recall, bits, least):
    assert mean_recall(left_of, bits) >= least


def test_without_a_rotation_and_a_scale_for_each_row_they_are_lost_at_four_bits(mean_recall):
    assert mean_recall(with_one_scale_for_all, 4) < 0.4


@pytest.mark.parametrize("bits", BITS)
def test_any_nan_for_a_scale_is_read_as_the_quiet_one(rng, backend, bits):
    codes = rng.integers(0, 256, (3, 32 * bits), dtype=np.uint8)
    scales = np.array([0x7FC00000, 0xFFC00001, 0x7FC0BEEF], np.uint32).view(np.float32)
    got = ops.dequantise_rows(codes, scales, bits=bits, seed=SEED, backend=backend)
    assert got.tobytes() == QUIET_NAN * (3 * 256)
