"""`project_rows` on CUDA against its reference: ``python cases_project_rows.py [few|tiny]`` (see emulated.py)."""

import sys

import ml_dtypes
import numpy as np
from emulated import Cases, budgets, guarded

from gradsift import Gamma, ProjectionSpec
from gradsift.ops.project_rows import cuda, reference

FEW = "few" in sys.argv[1:]
TINY = "tiny" in sys.argv[1:]  # for planted bugs and ThreadSanitizer
BUDGETS = budgets()
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
GAMMAS = [
    Gamma.adam(step=37),
    Gamma.less(),
    Gamma.affine(step=37),
    Gamma.second_moment(step=37),
]
rng = np.random.default_rng(11)
cases = Cases()


def both(
    grads, spec, shape, *, gamma=None, moments=None, lists=(None, None), accumulate=False, norms=True, samples=None
):
    """(sketches, norms) of the kernels and of the reference, from the same arrays."""
    samples = grads.shape[0] if samples is None else samples
    results = []
    for run, place in ((cuda, guarded), (reference, np.copy)):
        start = np.full((samples, spec.proj_dim), 3.0 if accumulate else np.nan, np.float32)
        out, squares = place(start), place(np.full((samples, 2), 5.0 if accumulate else np.nan))
        run.project_rows(
            grads, spec, "layer.weight", shape, *lists, gamma or Gamma.sgd(), moments, out, squares if norms else None,
            accumulate, None,
        )  # fmt: skip
        results.append((out, squares))
    return results


def integers(*shape, dtype="float32"):
    return guarded(rng.integers(-4, 5, shape).astype(DTYPES[dtype]))


if TINY:
    for shape in ((130, 257), (130, 256)):  # ragged, aligned
        (got, squares), (want, want_squares) = both(integers(3, shape[0] * shape[1]), ProjectionSpec(1024), shape)
        cases.equal("sketches", got, want)
        cases.equal("norms", squares, want_squares)
    second = guarded(rng.random((33, 152)).astype(np.float32) + 0.1)
    moments = (guarded(second - 0.5), second)
    for samples in (1, 2):
        grads = guarded(rng.standard_normal((samples, 33 * 152)).astype(np.float32))
        (got, squares), (want, _) = both(
            grads, ProjectionSpec(256), (33, 152), gamma=Gamma.adam(step=2), moments=moments
        )
        cases.close("adam", got, want, BUDGETS["project_rows", "adam"])
        cases.keep(got, squares)
    cases.end()

# Exact: sums of small integers. Shapes with ragged edges, of one row, of more rows than a chunk, of several slices.
SHAPES = [(1, 1), (1, 129), (3, 128), (5, 640), (70, 131), (130, 257)]
for P in (256, 1024, 8192, 32768):
    for shape in SHAPES[:: 3 if FEW else 1]:
        for dtype in DTYPES:
            for B in (1, 3):
                grads = integers(B, shape[0] * shape[1], dtype=dtype)
                (got, squares), (want, want_squares) = both(grads, ProjectionSpec(P, seed=2**40 + 5), shape)
                name = f"P {P}, {B} x {shape}, {dtype}"
                cases.equal(f"{name}: sketches", got, want)
                cases.equal(f"{name}: norms", squares, want_squares)

for nonzeros in (2, 4, 8):
    for P in (512, 16384):
        spec = ProjectionSpec(P, seed=9, nonzeros=nonzeros)
        (got, _), (want, _) = both(integers(2, 66 * 200), spec, (66, 200))
        if nonzeros == 4:  # of the others the scale is not exact
            cases.equal(f"{nonzeros} nonzeros, P {P}", got, want)
        else:
            cases.close(f"{nonzeros} nonzeros, P {P}", got, want, BUDGETS["project_rows", "sgd"])

(got, _), (want, _) = both(integers(2, 300), ProjectionSpec(256), (1, 300), gamma=Gamma.sign())
cases.equal("sign", got, want)
for B, shape in ((2, (90, 1000)), (1, (1, 70000))):
    (got, squares), (want, want_squares) = both(integers(B, shape[0] * shape[1]), ProjectionSpec(256), shape)
    cases.equal(f"several slices, {shape}", got, want)
    cases.equal(f"several slices, {shape}: norms", squares, want_squares)
    (got, squares), (want, want_squares) = both(
        integers(B, shape[0] * shape[1]), ProjectionSpec(256), shape, accumulate=True
    )
    cases.equal(f"several slices, {shape}, accumulate", got, want)
    cases.equal(f"several slices, {shape}, accumulate: norms", squares, want_squares)

# Rows an odd distance apart, a missing array of norms, sums added to.
wide = integers(3, 5 * 640 + 3)
for cut in (slice(0, 5 * 640), slice(3, 5 * 640 + 3), slice(1, 5 * 640 + 1)):
    (got, _), (want, _) = both(wide[:, cut], ProjectionSpec(1024), (5, 640), accumulate=True)
    cases.equal(f"strided rows from {cut.start} on, accumulate", got, want)
(got, untouched), (want, _) = both(wide[:, : 5 * 640], ProjectionSpec(1024), (5, 640), norms=False)
cases.equal("without norms", got, want)
cases.check("without norms: untouched", bool(np.isnan(untouched).all()))
for B, shape in ((0, (3, 5)), (2, (0, 5)), (2, (3, 0))):
    (got, squares), (want, want_squares) = both(integers(B, shape[0] * shape[1]), ProjectionSpec(256), shape)
    cases.equal(f"empty {B} x {shape}", got, want)
    cases.equal(f"empty {B} x {shape}: norms", squares, want_squares)

# Row-sparse: listed rows out of order, a sample without any.
for P in (256, 16384):
    for d_in, lengths in ((64, (3, 0, 5)), (131, (70, 1)), (1000, (80, 300))):
        ids = np.concatenate([rng.permutation(500)[:n] for n in lengths])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        grads = integers(int(offsets[-1]), d_in)
        lists = (guarded(ids), guarded(offsets))
        samples = len(lengths)
        (got, squares), (want, want_squares) = both(grads, ProjectionSpec(P), (500, d_in), lists=lists, samples=samples)
        cases.equal(f"row-sparse {lengths} of {d_in}, P {P}", got, want)
        cases.equal(f"row-sparse {lengths} of {d_in}, P {P}: norms", squares, want_squares)
        if FEW:
            break

# Floats, within the budgets; with moments; the same bits for every split of the batch.
for dtype in DTYPES:
    for moment_dtype in ("float32", "bfloat16"):
        for gamma in GAMMAS:
            for shape, P in (((16, 576), 8192), ((65, 131), 1024)):
                grads = guarded(rng.standard_normal((3, shape[0] * shape[1])).astype(DTYPES[dtype]))
                scale = 10.0 ** rng.uniform(-6, 0, shape)
                first = guarded((scale * rng.standard_normal(shape)).astype(DTYPES[moment_dtype]))
                second = guarded((scale**2 * rng.random(shape)).astype(DTYPES[moment_dtype]))
                options = {"gamma": gamma, "moments": (first, second)}
                spec = ProjectionSpec(P, seed=3)
                (got, squares), (want, want_squares) = both(grads, spec, shape, **options)
                name = f"{gamma.kind}, {dtype}, moments {moment_dtype}, {shape}, P {P}"
                cases.close(name, got, want, BUDGETS["project_rows", gamma.kind])
                cases.keep(got, squares)
                cases.close(
                    f"{name}: norms", squares[..., None], want_squares[..., None], BUDGETS["project_rows", "norms"]
                )
                parts = [both(grads[b : b + 1], spec, shape, **options)[0][0] for b in range(0 if FEW else 3)]
                if parts:
                    cases.equal(f"{name}: one by one", np.concatenate(parts), got)
            if FEW:
                break
grads = guarded(rng.standard_normal((2, 16 * 576)).astype(np.float32))
(got, squares), (want, want_squares) = both(grads, ProjectionSpec(8192), (16, 576))
cases.close("sgd", got, want, BUDGETS["project_rows", "sgd"])
cases.close("sgd: norms", squares[..., None], want_squares[..., None], BUDGETS["project_rows", "norms"])
ids, offsets = guarded(np.array([7, 2, 490, 0])), guarded(np.array([0, 3, 4]))
second = guarded(rng.random((500, 132)).astype(np.float32) + 0.1)
(got, _), (want, _) = both(
    guarded(rng.standard_normal((4, 132)).astype(np.float32)), ProjectionSpec(256), (500, 132), lists=(ids, offsets),
    samples=2, gamma=Gamma.adam(step=2), moments=(guarded(second - 0.5), second),
)  # fmt: skip
cases.close("row-sparse adam", got, want, BUDGETS["project_rows", "adam"])

# Moments that have to be copied first; the partial sketches of 32,768 numbers are other memory.
tall = guarded(rng.random((152, 33)).astype(np.float32) + 0.1)
grads = guarded(rng.standard_normal((2, 33 * 152)).astype(np.float32))
(got, _), (want, _) = both(
    grads, ProjectionSpec(32768), (33, 152), gamma=Gamma.adam(step=2), moments=((tall - 0.5).T, tall.T)
)
cases.close("transposed moments", got, want, BUDGETS["project_rows", "adam"])

# Squares that float32 does not hold.
for scale in (1e-30, 1e30):
    grads = guarded((scale * rng.standard_normal((1, 300))).astype(np.float32))
    (_, squares), (_, want_squares) = both(grads, ProjectionSpec(256), (1, 300))
    cases.close(f"norms of {scale:g}", squares[..., None], want_squares[..., None], BUDGETS["project_rows", "norms"])

cases.end()
