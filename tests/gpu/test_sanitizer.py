"""Small calls of every kernel, for compute-sanitizer, which slows them down a hundredfold: see gpu_first_run.sh."""

import pytest
import torch

from gradsift import Gamma, ProjectionSpec, ops

pytestmark = pytest.mark.gpu

SPEC = ProjectionSpec(proj_dim=256, seed=3)
ADAM = Gamma.adam(step=2)


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda").to(dtype)


def moments(*shape):
    return random(*shape), random(*shape).square()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_project_linear(dtype):
    activations, output_grads = random(21, 35, dtype=dtype), random(21, 70, dtype=dtype)
    norms = torch.empty(3, 2, dtype=torch.float64, device="cuda")
    offsets = torch.tensor([0, 9, 9, 21])
    rows = ops.project_linear(
        activations, output_grads, SPEC, param="w", cu_seqlens=offsets, gamma=ADAM, moments=moments(70, 35), norms=norms
    )
    assert rows.isfinite().all()
    assert norms.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_project_rows(dtype):
    rows = ops.project_rows(random(3, 70, 35, dtype=dtype), SPEC, param="w", gamma=ADAM, moments=moments(70, 35))
    assert rows.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_score_rows(dtype):
    rows, targets = random(37, 256, dtype=dtype), random(5, 256)
    scores = ops.score_rows(rows, targets / targets.norm(dim=1, keepdim=True))
    assert scores.abs().max() <= 1.01


@pytest.mark.parametrize("bits", [8, 4, 1])
def test_quantise(bits):
    found = ops.quantise_rows(random(5, 256), bits=bits, seed=1)
    back = ops.dequantise_rows(found.codes, found.scales, bits=bits, seed=1)
    assert torch.as_tensor(back).isfinite().all()
