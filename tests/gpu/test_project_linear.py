"""`project_linear` on a card: against the reference, and where only a card can tell."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from gradsift import Gamma, ProjectionSpec, ops

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

W = "model.layers.0.self_attn.q_proj.lora_A.weight"
GAMMAS = [Gamma.sgd(), Gamma.adam(step=37), Gamma.less(), Gamma.affine(step=37), Gamma.second_moment(step=37)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (tokens, d_out, d_in): LoRA's two shapes with ranks 8 and 128, a square one, edges that no vector and no tile divides.
# Of the longest sample, 199 tokens, a tile's squares of integers come to 0.8 · 2²⁴: more and float32 would round them.
SHAPES = [(300, 128, 4096), (300, 4096, 128), (300, 8, 4096), (300, 4096, 8), (200, 576, 1536), (300, 65, 131)]


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


def packed(rng, tokens, d_out, d_in, dtype, *, integers):
    """Three samples in one batch, the second without tokens."""
    a = rng.integers(-3, 4, (tokens, d_in)) if integers else rng.standard_normal((tokens, d_in))
    g = rng.integers(-2, 3, (tokens, d_out)) if integers else 1e-2 * rng.standard_normal((tokens, d_out))
    cut = tokens // 3 + 1
    tensors = (torch.from_numpy(x.astype(np.float32)).to("cuda", dtype) for x in (a, g))
    return (*tensors, np.array([0, cut, cut, tokens]))


def both(a, g, offsets, spec, moments=None, gamma=None):
    """(sketches, norms) of the card, then of the reference."""
    arguments = {"param": W, "cu_seqlens": offsets, "gamma": gamma}
    out = torch.full((len(offsets) - 1, spec.proj_dim), float("nan"), device="cuda")
    norms = torch.full((len(offsets) - 1, 2), float("nan"), dtype=torch.float64, device="cuda")
    ops.project_linear(a, g, spec, moments=moments, out=out, norms=norms, **arguments)
    want_norms = np.empty(norms.shape)
    host = None if moments is None else tuple(x.float().cpu().numpy() for x in moments)
    a, g = a.float().cpu().numpy(), g.float().cpu().numpy()
    want = ops.project_linear(a, g, spec, moments=host, norms=want_norms, backend="reference", **arguments)
    return (out.cpu().numpy(), norms.cpu().numpy()), (want, want_norms)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "d_out", "d_in"), [*SHAPES, (1, 1, 1), (70, 17, 20)])
def test_integers_are_exact(rng, tokens, d_out, d_in, dtype):
    got, want = both(
        *packed(rng, tokens, d_out, d_in, dtype, integers=True), ProjectionSpec(8192, seed=2**40 + 5), gamma=Gamma.sgd()
    )
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("kind", ["sgd", "sign"])
@pytest.mark.parametrize("nonzeros", [1, 4])
@pytest.mark.parametrize("proj_dim", [256, 1024, 4096, 16384, 65536])
def test_every_length_of_sketch_is_exact(rng, proj_dim, nonzeros, kind):
    operands = packed(rng, 40, 130, 300, torch.bfloat16, integers=True)
    got, want = both(*operands, ProjectionSpec(proj_dim, seed=3, nonzeros=nonzeros), gamma=Gamma(kind))
    np.testing.assert_array_equal(got[0], want[0])


@pytest.mark.parametrize("moment_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gamma", GAMMAS, ids=lambda gamma: gamma.kind)
def test_floats_stay_within_the_budgets(rng, budgets, gamma, dtype, moment_dtype):
    for tokens, d_out, d_in in ((512, 128, 1024), (300, 65, 131), (1024, 96, 64), (40, 16, 576)):
        operands = packed(rng, tokens, d_out, d_in, dtype, integers=False)
        moments = None
        if gamma.needs_moments:
            spread = 10.0 ** rng.uniform(-3, 3, (d_out, d_in))
            pair = (0.3 * spread * rng.standard_normal(spread.shape), (spread * rng.uniform(0.5, 2, spread.shape)) ** 2)
            moments = tuple(torch.from_numpy(x.astype(np.float32)).to("cuda", moment_dtype) for x in pair)
        (got, norms), (want, want_norms) = both(*operands, ProjectionSpec(8192, seed=3), moments, gamma)
        some = np.linalg.norm(want, axis=1) > 0
        error = np.linalg.norm(got - want, axis=1)[some] / np.linalg.norm(want, axis=1)[some]
        assert error.max() <= budgets["project_linear", gamma.kind]
        np.testing.assert_allclose(norms, want_norms, rtol=budgets["project_linear", "norms"], atol=0)


@pytest.fixture
def adam_case():
    generator = torch.Generator("cuda").manual_seed(0)
    a, g = (torch.randn(7, 300, n, device="cuda", generator=generator).bfloat16() for n in (1000, 200))
    moments = tuple(torch.rand(200, 1000, device="cuda", generator=generator) + 0.1 for _ in range(2))
    return a, g, {"param": W, "gamma": Gamma.adam(step=9), "moments": moments}


def test_the_same_bits_every_time_for_every_split_of_the_batch_and_on_every_stream(adam_case):
    a, g, arguments = adam_case
    spec = ProjectionSpec(8192)
    whole = ops.project_linear(a, g, spec, **arguments)
    for split in (1, 2, 3):
        parts = [
            ops.project_linear(*part, spec, **arguments) for part in zip(a.split(split), g.split(split), strict=True)
        ]
        assert torch.equal(torch.cat(parts), whole)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = [ops.project_linear(a, g, spec, **arguments) for _ in range(10)]
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(some, whole) for some in again)


def test_a_padded_call_can_be_captured_in_a_graph(adam_case):
    a, g, arguments = adam_case
    spec = ProjectionSpec(8192)
    out = torch.empty(7, 8192, device="cuda")
    ops.project_linear(a, g, spec, out=out, **arguments)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.project_linear(a, g, spec, out=out, **arguments)
    g.neg_()
    graph.replay()
    assert torch.equal(out, ops.project_linear(a, g, spec, **arguments))


def test_strided_tensors_and_accumulation_are_exact(rng):
    a, g, offsets = packed(rng, 60, 40, 200, torch.bfloat16, integers=True)
    spec = ProjectionSpec(1024)
    want = ops.project_linear(a, g, spec, param=W, cu_seqlens=offsets)
    wide = torch.full((60, 213), 99.0, dtype=torch.bfloat16, device="cuda")
    wide[:, 5:205] = a
    out = want.clone()
    turned = g.t().contiguous().t()
    ops.project_linear(wide[:, 5:205], turned, spec, param=W, cu_seqlens=offsets, out=out, accumulate=True)
    assert torch.equal(out, 2 * want)


def test_offsets_beyond_two_to_the_31_entries(rng):
    free, _ = torch.cuda.mem_get_info()
    if free < 12 << 30:
        pytest.skip(f"needs 12 GiB of free device memory, got {free >> 30}")
    tokens, d_in = (1 << 20) + 24, 2176  # 2.3 G entries
    a = torch.randint(-1, 2, (tokens, d_in), dtype=torch.int8, device="cuda").to(torch.bfloat16)
    g = torch.randint(-1, 2, (tokens, 32), dtype=torch.int8, device="cuda").to(torch.bfloat16)
    spec = ProjectionSpec(8192)
    batch = ops.project_linear(a, g, spec, param=W, cu_seqlens=np.array([0, 5, tokens - 19, tokens]))
    last = ops.project_linear(a[-19:].clone(), g[-19:].clone(), spec, param=W, cu_seqlens=np.array([0, 19]))
    assert torch.equal(batch[2:], last)


def test_what_runs_spills_no_registers(adam_case, monkeypatch):
    a, g, arguments = adam_case
    ops.project_linear(a, g, ProjectionSpec(8192), **arguments)  # imports the backend
    backend, kept = sys.modules["gradsift.ops.project_linear.triton"], []

    class Keeping:
        def __getitem__(self, grid):
            launch = kernel[grid]
            return lambda *operands, **constants: kept.append(launch(*operands, **constants))

    kernel = backend.sketch_tiles
    monkeypatch.setattr(backend, "sketch_tiles", Keeping())
    for dtype in DTYPES:
        ops.project_linear(a.to(dtype), g.to(dtype), ProjectionSpec(8192), **arguments)
    assert [compiled.n_spills for compiled in kept] == [0] * len(DTYPES)


def test_torch_compile_calls_the_operator_on_the_device(adam_case):
    from gradsift.ops import torch_ops

    a, g, _ = adam_case
    spec = ProjectionSpec(1024)
    text = torch_ops.spec_text(spec)
    compiled = torch.compile(lambda a, g: torch.ops.gradsift.project_linear(a, g, text, W), fullgraph=True)
    assert torch.equal(compiled(a, g), ops.project_linear(a, g, spec, param=W))
