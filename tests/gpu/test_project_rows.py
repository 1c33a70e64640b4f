"""`project_rows` on a card: against the reference, and where only a card can tell."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from gradsift import Gamma, ProjectionSpec, ops

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

GAMMAS = [Gamma.adam(step=37), Gamma.less(), Gamma.affine(step=37), Gamma.second_moment(step=37)]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def budgets():
    """(op, quantity) to the largest ‖got − want‖ / ‖want‖ that docs/numerics.md allows."""
    spec = importlib.util.spec_from_file_location("budgets", Path(__file__).parents[1] / "ops/budgets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_budgets()


def integers(rng, *shape, dtype=torch.float32):
    return torch.from_numpy(rng.integers(-4, 5, shape).astype(np.float32)).to("cuda", dtype)


def reference(grads, spec, **options):
    """Sketches and norms of float64 NumPy."""
    options = {k: tuple(x.float().cpu().numpy() for x in v) if k == "moments" else v for k, v in options.items()}
    samples = options["cu_seqlens"].size - 1 if "cu_seqlens" in options else grads.shape[0]
    norms = np.empty((samples, 2))
    sketches = ops.project_rows(
        grads.float().cpu().numpy(), spec, param="w", norms=norms, backend="reference", **options
    )
    return sketches, norms


def on_device(grads, spec, **options):
    samples = options["cu_seqlens"].size - 1 if "cu_seqlens" in options else grads.shape[0]
    norms = torch.full((samples, 2), float("nan"), dtype=torch.float64, device="cuda")
    sketches = ops.project_rows(grads, spec, param="w", norms=norms, **options)
    assert sketches.device == grads.device
    return sketches.cpu().numpy(), norms.cpu().numpy()


def error(got, want):
    return float(np.max(np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)))


@pytest.mark.parametrize("proj_dim", [256, 1024, 8192, 65536])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (300,), (70, 131), (5, 640), (130, 1000), (3, 5, 7), (100_003,)])
def test_integers_are_exact(rng, proj_dim, dtype, shape):
    grads = integers(rng, 3, *shape, dtype=dtype)
    spec = ProjectionSpec(proj_dim, seed=2**40 + 5)
    for got, want in zip(on_device(grads, spec), reference(grads, spec), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("nonzeros", [4])
@pytest.mark.parametrize("proj_dim", [1024, 16384])
def test_several_nonzeros_are_exact(rng, nonzeros, proj_dim):
    grads = integers(rng, 2, 66, 200)
    spec = ProjectionSpec(proj_dim, nonzeros=nonzeros)
    np.testing.assert_array_equal(on_device(grads, spec)[0], reference(grads, spec)[0])


def test_signs_are_exact(rng):
    grads = integers(rng, 2, 66, 200)
    for got, want in zip(
        on_device(grads, ProjectionSpec(256), gamma=Gamma.sign()),
        reference(grads, ProjectionSpec(256), gamma=Gamma.sign()),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("moment_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", GAMMAS, ids=lambda gamma: gamma.kind)
def test_floats_stay_within_the_budgets(rng, budgets, gamma, dtype, moment_dtype):
    for shape, proj_dim in (((16, 576), 8192), ((65, 131), 1024), ((64, 96), 8192)):
        grads = torch.from_numpy(rng.standard_normal((3, *shape)).astype(np.float32)).to("cuda", dtype)
        scale = 10.0 ** rng.uniform(-6, 0, shape)
        moments = tuple(
            torch.from_numpy(x.astype(np.float32)).to("cuda", moment_dtype)
            for x in (scale * rng.standard_normal(shape), scale**2 * rng.random(shape))
        )
        spec = ProjectionSpec(proj_dim, seed=3)
        got, norms = on_device(grads, spec, gamma=gamma, moments=moments)
        want, want_norms = reference(grads, spec, gamma=gamma, moments=moments)
        assert error(got, want) <= budgets["project_rows", gamma.kind]
        assert np.max(np.abs(norms - want_norms) / want_norms) <= budgets["project_rows", "norms"]


def test_listed_rows_are_exact(rng):
    lengths = (80, 0, 300)
    ids = np.concatenate([rng.permutation(500)[:n] for n in lengths])
    options = {"row_ids": ids, "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]), "shape": (500, 130)}
    for proj_dim in (256, 16384):
        grads = integers(rng, sum(lengths), 130)
        for got, want in zip(
            on_device(grads, ProjectionSpec(proj_dim), **options),
            reference(grads, ProjectionSpec(proj_dim), **options),
            strict=True,
        ):
            np.testing.assert_array_equal(got, want)


def test_a_sample_with_fewer_rows_than_the_longest_may_have_more_slices(rng):
    lengths = (16400, 16384)
    grads = integers(rng, sum(lengths), 4096, dtype=torch.bfloat16)
    ids = np.concatenate([np.arange(n) for n in lengths])
    options = {"param": "w", "shape": (lengths[0], 4096)}
    both = ops.project_rows(
        grads, ProjectionSpec(256), row_ids=ids, cu_seqlens=np.array([0, lengths[0], ids.size]), **options
    )
    for b, part in enumerate(grads.split(lengths)):
        n = lengths[b]
        alone = ops.project_rows(
            part, ProjectionSpec(256), row_ids=np.arange(n), cu_seqlens=np.array([0, n]), **options
        )
        assert torch.equal(both[b], alone[0])


def test_the_same_bits_every_time_for_every_split_of_the_batch_and_on_every_stream(rng):
    grads = torch.randn(7, 512, 1000, device="cuda")
    spec = ProjectionSpec(8192)
    whole = ops.project_rows(grads, spec, param="w")
    for split in (1, 2, 3):
        parts = [ops.project_rows(part, spec, param="w") for part in grads.split(split)]
        assert torch.equal(torch.cat(parts), whole)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = [ops.project_rows(grads, spec, param="w") for _ in range(10)]
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(some, whole) for some in again)


def test_a_call_can_be_captured_in_a_graph(rng):
    grads = integers(rng, 2, 300, 500)
    out = torch.zeros(2, 1024, device="cuda")
    spec = ProjectionSpec(1024)
    want = ops.project_rows(grads, spec, param="w").clone()  # also loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.project_rows(grads, spec, param="w", out=out)
    grads.mul_(2)
    graph.replay()
    assert torch.equal(out, 2 * want)


def test_a_sample_and_a_batch_of_more_than_two_to_the_31_entries(rng):
    free, _ = torch.cuda.mem_get_info()
    if free < 12 << 30:
        pytest.skip(f"needs 12 GiB of free device memory, got {free >> 30}")
    rows, cols = 1 << 20, 2176  # 2.3 G entries
    spec = ProjectionSpec(8192)
    grads = torch.randint(-1, 2, (rows, cols), dtype=torch.int8, device="cuda").to(torch.bfloat16)
    whole = ops.project_rows(grads[None], spec, param="w")
    ids, half = np.arange(rows), rows // 2
    parts = ops.project_rows(
        grads, spec, param="w", shape=(rows, cols), row_ids=ids, cu_seqlens=np.array([0, half, rows])
    )
    assert torch.equal(parts.sum(0), whole[0])
    batch = grads.view(16, -1)
    last = ops.project_rows(batch[15:].clone(), spec, param="w")
    assert torch.equal(ops.project_rows(batch, spec, param="w")[15:], last)


def test_host_memory_and_other_devices_are_refused(rng):
    from gradsift import _native

    on_host = np.zeros(512, np.float32)
    with pytest.raises(ValueError, match="grads: expected memory of device 0, got an address in host memory"):
        _native.cuda_project_rows(
            place=(0, 0), grads=(on_host.ctypes.data, 0, 256, 256), row_ids=0, cu_seqlens=0, samples=2, longest=0,
            d_out=1, d_in=256, projection=(0, 256, 0, 1), param_id=1, gamma=(0, 0.0, 0.0, 0.0, 0),
            first_moment=(0, 0), second_moment=(0, 0), output=(1 << 40, 256, 0, 0, False), scratch=(0, 0),
        )  # fmt: skip
    with pytest.raises(ValueError, match="device: expected 0 to"):
        _native.cuda_device_info(99)
