"""The torch operators: registered soundly, captured by torch.compile, equal to the eager ops."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gradsift import Gamma, ProjectionSpec, backends, ops  # noqa: E402

if "cpu" not in backends.available():
    pytest.skip("the native extension is not built", allow_module_level=True)

from gradsift.ops import torch_ops  # noqa: E402

SPEC = ProjectionSpec(proj_dim=256, seed=2**63 + 11)
ADAM = Gamma.adam(step=4)
TEXT, ADAM_TEXT = torch_ops.spec_text(SPEC), torch_ops.gamma_text(ADAM)


def tensors(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_accepts_project_linear_padded_packed_and_with_moments(dtype):
    a, g, m, v = tensors((2, 5, 33), (2, 5, 7), (7, 33), (7, 33), dtype=dtype)
    op = torch.ops.gradsift.project_linear.default
    torch.library.opcheck(op, (a, g, TEXT, "w"))
    packed = {"cu_seqlens": torch.tensor([0, 4, 4, 10]), "gamma": ADAM_TEXT, "exp_avg": m, "exp_avg_sq": v.square()}
    torch.library.opcheck(op, (a.flatten(0, 1), g.flatten(0, 1), TEXT, "w"), packed)


def test_opcheck_accepts_project_rows_whole_and_row_sparse():
    whole, rows = tensors((3, 7, 33), (4, 33))
    op = torch.ops.gradsift.project_rows.default
    torch.library.opcheck(op, (whole, TEXT, "w"))
    sparse = {"shape": [50, 33], "row_ids": torch.tensor([3, 49, 0, 3]), "cu_seqlens": torch.tensor([0, 2, 4])}
    torch.library.opcheck(op, (rows, TEXT, "w"), sparse)


def test_compiled_whole_graph_equals_the_eager_ops_for_changing_batch_sizes():
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def both(a, g, m, v):
        linear = torch.ops.gradsift.project_linear(a * 2, g, TEXT, "w", gamma=ADAM_TEXT, exp_avg=m, exp_avg_sq=v)
        return linear + torch.ops.gradsift.project_rows(g, TEXT, "g")

    m, v = tensors((7, 33), (7, 33))
    v = v.square()
    for batch, tokens in ((2, 5), (3, 4)):
        a, g = tensors((batch, tokens, 33), (batch, tokens, 7))
        want = ops.project_linear(a * 2, g, SPEC, param="w", gamma=ADAM, moments=(m, v))
        want += ops.project_rows(g, SPEC, param="g")
        torch.testing.assert_close(both(a, g, m, v), want, rtol=0, atol=0)


def test_half_a_pair_of_moments_is_refused():
    a, g, m = tensors((1, 2, 9), (1, 2, 3), (3, 9))
    with pytest.raises(ValueError, match="expected both or neither"):
        torch.ops.gradsift.project_linear(a, g, TEXT, "w", gamma=ADAM_TEXT, exp_avg=m)


def test_the_fake_of_cuda_tensors_lies_on_their_device():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        a, g = torch.empty(2, 3, 4, device="cuda:0"), torch.empty(2, 3, 5, device="cuda:0")
        sketches = torch.ops.gradsift.project_linear(a, g, TEXT, "w")
        rows = torch.ops.gradsift.project_rows(g, TEXT, "w")
    for fake in (sketches, rows):
        assert (fake.device, fake.dtype, tuple(fake.shape)) == (torch.device("cuda:0"), torch.float32, (2, 256))


@pytest.mark.parametrize("name", ["project_linear", "project_rows"])
def test_operators_have_an_implementation_for_cuda(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gradsift::{name}", "CUDA")
