"""The projection's definition: equal to its specification, unbiased, and of the variance that theory gives."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from gradsift import ProjectionSpec
from gradsift.naming import parameter_id
from gradsift.ops import projection

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden_projection.json").read_text(encoding="utf-8"))


def case_id(case):
    return "{kind}-{proj_dim}-s{nonzeros}-{shape[0]}x{shape[1]}".format(**case)


def spec_of(case):
    return ProjectionSpec(case["proj_dim"], case["seed"], case["kind"], case["nonzeros"])


def scale_of(spec):
    return math.sqrt(spec.proj_dim if spec.kind == "rademacher" else spec.nonzeros)


@pytest.fixture(scope="module")
def make_golden():
    found = importlib.util.spec_from_file_location("make_golden", HERE / "make_golden.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def words(text):
    return [int(w, 16) for w in text.split()]


# Specification


def test_golden_file_is_what_the_page_computes(make_golden):
    assert make_golden.golden() == GOLDEN


@pytest.mark.parametrize("vector", GOLDEN["philox"], ids=["zeros", "ones", "pi"])
def test_philox_gives_the_known_answers_of_random123(vector):
    got = projection.philox4x32(words(vector["counter"]), tuple(words(vector["key"])))
    assert got.tolist() == words(vector["words"])


def test_philox_of_arrays_is_philox_of_each_element():
    counters = np.arange(12, dtype=np.uint32).reshape(3, 4)
    together = projection.philox4x32((5, 6, counters, counters[:1] + 9), (1, 2))
    for i, j in np.ndindex(3, 4):
        one = projection.philox4x32((5, 6, counters[i, j], counters[0, j] + 9), (1, 2))
        np.testing.assert_array_equal(together[:, i, j], one)


@pytest.mark.parametrize(("name", "want"), GOLDEN["parameter_id"].items())
def test_parameter_ids_are_the_published_ones(name, want):
    assert parameter_id(name) == int(want, 16)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=case_id)
def test_columns_are_the_published_ones(case):
    spec, (_, d_in) = spec_of(case), case["shape"]
    rows = sorted({i for i, _, _ in case["columns"]})
    # Only the rows that are looked at: a whole matrix of P = 65,536 would be gigabytes.
    for i, j, want in case["columns"]:
        unit = np.zeros((1, len(rows), d_in))
        unit[0, rows.index(i), j] = 1
        column = projection.sketch(spec, case["param"], np.array(rows), unit)[0] * scale_of(spec)
        if spec.kind == "xor":
            expected = np.zeros(spec.proj_dim)
            for index, sign in want:
                expected[index] += sign
            np.testing.assert_array_equal(column, expected)
        else:
            bits = np.concatenate([column[:128], column[-128:]]) < 0
            flat = [word >> b & 1 for text in want for word in words(text) for b in range(32)]
            np.testing.assert_array_equal(bits, flat)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=case_id)
def test_sketches_are_the_published_ones(case, make_golden):
    spec, G = spec_of(case), make_golden.gradient(case["shape"])
    got = projection.sketch(spec, case["param"], np.arange(len(G)), G[None])[0] * scale_of(spec)
    assert make_golden.digest(got) == case["sketch_blake2b"]


# One definition, several ways to it


SPECS = [
    ProjectionSpec(256, 3),
    ProjectionSpec(1024, 2**64 - 1, nonzeros=4),
    ProjectionSpec(8192, 5, nonzeros=2),
    ProjectionSpec(16384, 6),
    ProjectionSpec(256, 7, kind="rademacher"),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (5, 131), (129, 2), (0, 7), (7, 0)], ids=str)
def test_sketch_is_the_matrix_times_the_gradient(spec, shape, rng):
    G = rng.normal(size=(2, *shape))
    R = projection.matrix(spec, "w", shape)
    assert R.shape == (spec.proj_dim, shape[0] * shape[1])
    got = projection.sketch(spec, "w", np.arange(shape[0]), G)
    np.testing.assert_allclose(got, G.reshape(2, -1) @ R.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_sketch_of_some_rows_is_that_of_a_gradient_that_is_zero_elsewhere(spec, rng):
    rows = np.array([30, 2, 17])
    values = rng.normal(size=(1, 3, 140))
    whole = np.zeros((1, 40, 140))
    whole[:, rows] = values
    got = projection.sketch(spec, "w", rows, values)
    np.testing.assert_allclose(got, projection.sketch(spec, "w", np.arange(40), whole), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_blocks_of_rows_do_not_show_in_the_sketch(spec, rng, monkeypatch):
    G = rng.integers(-9, 10, size=(2, 23, 140))
    whole = projection.sketch(spec, "w", np.arange(23), G)
    monkeypatch.setattr(projection, "_BLOCK_ENTRIES", 3 * 140)
    np.testing.assert_allclose(projection.sketch(spec, "w", np.arange(23), G), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_smaller_parameter_of_the_same_name_uses_a_part_of_the_same_matrix(spec):
    big = projection.matrix(spec, "w", (9, 260)).reshape(-1, 9, 260)
    small = projection.matrix(spec, "w", (5, 131)).reshape(-1, 5, 131)
    np.testing.assert_array_equal(small, big[:, :5, :131])


@pytest.mark.parametrize(
    ("shape", "want"),
    [((), (1, 1)), ((7,), (1, 7)), ((3, 4), (3, 4)), ((8, 4, 3, 2), (8, 24)), ((0, 5), (0, 5))],
)
def test_every_shape_is_a_matrix(shape, want):
    assert projection.matrix_shape(shape) == want


@pytest.mark.parametrize("kind", ["xor", "rademacher"])
def test_seed_name_and_dim_each_name_another_matrix(kind):
    matrices = {
        projection.matrix(ProjectionSpec(dim, seed, kind), name, (3, 130)).tobytes()
        for dim in (256, 1024)
        for seed in (0, 1, 2**32)
        for name in ("a", "b")
    }
    assert len(matrices) == 12


# Collisions


@pytest.mark.parametrize("proj_dim", [256, 1024, 8192, 65536])
def test_entries_of_one_chunk_never_collide(proj_dim):
    spec = ProjectionSpec(proj_dim, 11)
    rows = projection.chunk_rows(spec)
    buckets = projection.xor_buckets(spec, "w", np.arange(2 * rows), 3 * 128)
    for i, j in np.ndindex(2, 3):
        chunk = buckets[i * rows : (i + 1) * rows, j * 128 : (j + 1) * 128]
        assert np.unique(chunk).size == rows * 128


@pytest.mark.parametrize("proj_dim", [256, 1024, 16384])
def test_entries_of_different_chunks_collide_once_in_proj_dim(proj_dim):
    pairs = 400_000
    spec = ProjectionSpec(proj_dim, 12)
    mc, mr, q = projection.xor_masks(spec, "w", np.array(0), np.arange(2 * pairs))
    row, column = np.tile([0, 1], pairs), np.tile([5, 77], pairs)  # two places in chunks 2n and 2n + 1
    bucket = q * 8192 + (row ^ mr) * 128 + (column ^ mc)
    hits = np.count_nonzero(bucket[::2] == bucket[1::2])
    mean = pairs / proj_dim
    assert abs(hits - mean) <= 3 * math.sqrt(mean)


def test_signs_are_balanced_and_independent_of_their_neighbours():
    signs = projection.xor_signs(ProjectionSpec(256, 13), "w", np.arange(512), 512).astype(np.float64)
    n = signs.size
    for product in (signs, signs[1:] * signs[:-1], signs[:, 1:] * signs[:, :-1], signs[:, 128:] * signs[:, :-128]):
        assert abs(product.sum()) <= 3 * math.sqrt(n)


# Distortion on five families of gradients (frozen seeds: these numbers do not change from run to run)

D_OUT, D_IN, RHO, DRAWS = 64, 512, 0.5, 1000
FAMILIES = ("iid", "rank 1", "rank 16", "outlier columns", "heavy tail")


def family(name, rng):
    """Two unit gradients (D_OUT, D_IN) with inner product RHO, as layers produce them."""

    def one():
        if name.startswith("rank"):
            r = int(name.split()[1])
            return rng.normal(size=(D_OUT, r)) @ rng.normal(size=(r, D_IN))
        if name == "heavy tail":
            return rng.standard_t(2.2, size=(D_OUT, D_IN))
        G = rng.normal(size=(D_OUT, D_IN))
        if name == "outlier columns":  # massive activations, at the same place of every chunk
            G[:, 5::128] *= 30
        return G

    x, z = one(), one()
    x /= np.linalg.norm(x)
    z -= np.sum(x * z) * x
    return x, RHO * x + math.sqrt(1 - RHO**2) * z / np.linalg.norm(z)


PAIRS = {name: family(name, np.random.default_rng(100 + n)) for n, name in enumerate(FAMILIES)}


def chunk_parts(spec, G):
    rows = projection.chunk_rows(spec)
    return G.reshape(D_OUT // rows, rows, D_IN // 128, 128).swapaxes(1, 2).reshape(-1, rows * 128)


def variance(spec, x, y):
    """Of ⟨Rx, Ry⟩ over seeds, by docs/projection-spec.md; repeats of nonzeros are independent, also within a chunk."""
    full = np.sum(x * x) * np.sum(y * y) + np.sum(x * y) ** 2
    if spec.kind == "rademacher":
        return (full - 2 * np.sum(x * x * y * y)) / spec.proj_dim
    X, Y = chunk_parts(spec, x), chunk_parts(spec, y)
    same = np.sum(np.sum(X * X, 1) * np.sum(Y * Y, 1) + np.sum(X * Y, 1) ** 2)
    return (full - same / spec.nonzeros) / spec.proj_dim


def errors_in_standard_errors(products, mean, var):
    """How far the sample mean and variance of `products` lie from theory, in their own standard errors."""
    n, deviation = len(products), products - mean
    second = np.mean(deviation**2)
    of_variance = math.sqrt(max(np.mean(deviation**4) - second**2, 0) / n)
    return np.mean(deviation) / math.sqrt(var / n), (second - var) / of_variance


def products_by_family(sketch_pair):
    """{family: DRAWS inner products}; `sketch_pair(draw, values (2·families, D_OUT, D_IN))` gives the sketches."""
    values = np.stack([G for name in FAMILIES for G in PAIRS[name]])
    products = np.empty((DRAWS, len(FAMILIES)))
    for draw in range(DRAWS):
        rows = sketch_pair(draw, values)
        products[draw] = np.einsum("fp,fp->f", rows[::2], rows[1::2])
    return dict(zip(FAMILIES, products.T, strict=True))


def by_spec(**fields):
    def sketch_pair(draw, values):
        return projection.sketch(ProjectionSpec(seed=draw, **fields), "w", np.arange(D_OUT), values)

    return sketch_pair


def plain_folding(draw, values):
    """The same signs without the XOR masks: chunks are laid on top of one another."""
    spec = ProjectionSpec(1024, draw)
    signs = projection.xor_signs(spec, "w", np.arange(D_OUT), D_IN)
    return np.stack([chunk_parts(spec, v).sum(0) for v in values * signs])


def row_and_column_mask(draw, values):
    """A random quarter of the rows and of the columns, scaled to be unbiased."""
    rng = np.random.default_rng(draw)
    rows = rng.choice(D_OUT, D_OUT // 4, replace=False)
    columns = rng.choice(D_IN, D_IN // 4, replace=False)
    return 4 * values[:, rows][:, :, columns].reshape(len(values), -1)


@pytest.fixture(scope="module", params=[{"proj_dim": 1024}, {"proj_dim": 1024, "nonzeros": 4}], ids=["s1", "s4"])
def xor_products(request):
    return ProjectionSpec(**request.param), products_by_family(by_spec(**request.param))


@pytest.mark.parametrize("name", FAMILIES)
def test_inner_products_are_unbiased_and_of_the_stated_variance(name, xor_products):
    spec, products = xor_products
    var = variance(spec, *PAIRS[name])
    assert var <= (1 + RHO**2) / spec.proj_dim
    of_mean, of_variance = errors_in_standard_errors(products[name], RHO, var)
    assert abs(of_mean) <= 3
    assert abs(of_variance) <= 3


@pytest.mark.parametrize("sketch_pair", [plain_folding, row_and_column_mask])
def test_the_same_check_catches_a_sketch_without_xor_masks_on_outlier_columns(sketch_pair):
    products = products_by_family(sketch_pair)["outlier columns"]
    var = variance(ProjectionSpec(1024), *PAIRS["outlier columns"])
    _, of_variance = errors_in_standard_errors(products, RHO, var)
    assert of_variance > 3
    assert np.std(products) > 4 * math.sqrt(var)


def test_rademacher_is_unbiased_and_of_the_stated_variance():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, 3, 20))
    x /= np.linalg.norm(x)
    y /= np.linalg.norm(y)
    products = []
    for seed in range(400):
        rows = projection.sketch(ProjectionSpec(256, seed, "rademacher"), "w", np.arange(3), np.stack([x, y]))
        products.append(rows[0] @ rows[1])
    rho = float(np.sum(x * y))
    of_mean, of_variance = errors_in_standard_errors(
        np.array(products), rho, variance(ProjectionSpec(256, 0, "rademacher"), x, y)
    )
    assert abs(of_mean) <= 3
    assert abs(of_variance) <= 3


def test_different_parameters_are_sketched_independently():
    rng = np.random.default_rng(8)
    G = rng.normal(size=(1, 8, 256))
    G /= np.linalg.norm(G)
    spec, rows = ProjectionSpec(1024, 9), np.arange(8)
    sketches = np.concatenate([projection.sketch(spec, f"layers.{n}.weight", rows, G) for n in range(60)])
    cross = (sketches @ sketches.T)[np.triu_indices(60, 1)]
    of_mean, of_variance = errors_in_standard_errors(cross, 0.0, 1 / spec.proj_dim)
    assert abs(of_mean) <= 3
    assert abs(of_variance) <= 3
