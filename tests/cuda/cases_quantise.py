"""Quantised rows on CUDA against the reference, byte for byte: ``python cases_quantise.py [few|tiny]``."""

import sys

import numpy as np
from emulated import Cases, guarded

from gradsift.ops.quantise import cuda, reference

TINY = "tiny" in sys.argv[1:]  # for planted bugs and ThreadSanitizer
FEW = "few" in sys.argv[1:]
rng = np.random.default_rng(12)
cases = Cases()


def quantised(run, rows, bits, seed, place):
    n, proj_dim = rows.shape
    found = (
        place(np.full((n, proj_dim * bits // 8), 0xA5, np.uint8)),
        place(np.full(n, 3, np.float32)),
        place(np.full(n, 3, np.float64)),
    )
    run.quantise_rows(rows, bits, seed, *found, None)
    return found


def both_ways(name, rows, bits, seed):
    got = quantised(cuda, guarded(rows), bits, seed, guarded)
    want = quantised(reference, rows, bits, seed, np.copy)
    for what, a, b in zip(("codes", "scales", "norms"), got, want, strict=True):
        cases.equal(f"{name}: {what}", a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))
    back, right = guarded(np.full(rows.shape, 9, np.float32)), np.empty_like(rows)
    cuda.dequantise_rows(guarded(want[0]), guarded(want[1]), bits, seed, back, None)
    reference.dequantise_rows(want[0], want[1], bits, seed, right, None)
    cases.equal(f"{name}: rows", back.view("u4"), right.view("u4"))


def samples(n, proj_dim):
    rows = rng.standard_normal((n, proj_dim)).astype(np.float32)
    rows[n // 2] *= np.float32(1e-12)
    rows[-1, 0] = 50  # codes that are cut off
    return rows


for proj_dim in (1024,) if TINY else (256, 2048, 65536) if FEW else (256, 512, 1024, 2048, 8192, 32768, 65536):
    for bits in (8, 4, 1):
        both_ways(f"P {proj_dim}, {bits} bits", samples(2 if proj_dim > 8192 else 5, proj_dim), bits, 2**63 + proj_dim)

# Rotated to a + b and a − b throughout: one of them times r, in float32, halfway from 28 to 29, which goes to 28.
a = np.float32(1) + np.arange(2000, dtype=np.float32) * np.float32(2**-20)
for b in np.float32(0.0098) + np.arange(500, dtype=np.float32) * np.float32(2**-20):
    r = (127 / (4.5 * np.sqrt(a.astype(np.float64) ** 2 + np.float64(b) ** 2))).astype(np.float32)
    halves = np.flatnonzero((a + b) * r == np.float32(28.5))
    if halves.size:
        break
half = np.zeros((2, 256), np.float32)
half[:, 3], half[:, 77] = a[halves[0]], b
cases.check("halfway", bool(np.isin(28, quantised(cuda, guarded(half), 8, 5, guarded)[0])))
both_ways("halfway", half, 8, 5)
if TINY:
    cases.end()

odd = samples(8, 256)
odd[0] = 0.0
odd[1] = -0.0
odd[2, 77] = np.nan
odd[3, 5] = np.inf
odd[4] *= np.float32(1e-33)  # a norm that has no codes
odd[5] = 1.0  # all but one number rotated to zero, or all alike
odd[6] = reference.rotation_signs(5, 256)  # rotated to a single number
for bits in (8, 4, 1):
    both_ways(f"odd rows, {bits} bits", odd, bits, 5)

# Rows an odd distance apart.
wide = guarded(rng.integers(-4, 5, (4, 515)).astype(np.float32))[:, :512]
both_ways("integers, rows apart", wide, 8, 1)
got = quantised(cuda, wide, 4, 1, guarded)
cases.equal("rows apart: codes", got[0], quantised(reference, wide, 4, 1, np.copy)[0])
cases.end()
