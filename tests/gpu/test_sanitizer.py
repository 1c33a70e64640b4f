"""Small calls of every kernel, for compute-sanitizer, which slows them down a hundredfold: see gpu_first_run.sh."""

import numpy as np
import pytest
import torch

from gradsift import Gamma, ProjectionSpec, ops
from gradsift.ops.score_rows import BlockScores, RowScorer
from gradsift.ops.score_rows.blocks import QUANTISED, ROW_FORMATS
from gradsift.ops.score_rows.cuda import TopRows

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


@pytest.mark.parametrize("moment_dtype", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_project_rows(dtype, moment_dtype):
    """Two samples at a time, one, and one of rows that no vector divides; partial sketches and those of one block."""
    for shape, samples, proj_dim in (((70, 36), 3, 256), ((70, 36), 1, 256), ((70, 35), 2, 256), ((9, 132), 1, 16384)):
        gamma, pair = None, None
        if moment_dtype is not None:
            gamma, pair = ADAM, tuple(moment.to(moment_dtype) for moment in moments(*shape))
        norms = torch.empty(samples, 2, dtype=torch.float64, device="cuda")
        grads = random(samples, *shape, dtype=dtype)
        rows = ops.project_rows(grads, ProjectionSpec(proj_dim), param="w", gamma=gamma, moments=pair, norms=norms)
        assert rows.isfinite().all()
        assert norms.isfinite().all()


def test_project_listed_rows():
    offsets, ids = torch.tensor([0, 3, 3, 5]), torch.tensor([7, 2, 40, 0, 7])
    rows = ops.project_rows(random(5, 132), SPEC, param="w", shape=(41, 132), row_ids=ids, cu_seqlens=offsets)
    assert rows.isfinite().all()


@pytest.mark.parametrize("columns", [5, 40, 100])
@pytest.mark.parametrize("dtype", ROW_FORMATS)
def test_score_rows(dtype, columns):
    rows, scales = random(37, 512), None
    rows[3], rows[5, 7] = 0, float("nan")
    if dtype in QUANTISED:
        found = ops.quantise_rows(rows, bits=ROW_FORMATS[dtype][1], seed=1)
        rows, scales = found.codes, found.scales
    else:
        rows = rows.to(getattr(torch, dtype))
    targets = np.random.default_rng(0).standard_normal((columns, 512)).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    scorer = RowScorer([targets], [1.0], [dtype], seeds=[1], device="cuda")
    out = BlockScores(torch.empty(37, device="cuda"), torch.empty(37, device="cuda", dtype=torch.int32))
    top = TopRows(9, 37, rows)
    for first in (0, 37, 74):
        scorer.score([rows], out, scales=[scales])
        top.add(out.influence, out.best, first)
    found, scores, _ = top.finish()
    assert len(found) == 9
    assert np.abs(scores).max() <= 1.01


@pytest.mark.parametrize("proj_dim", [256, 65536])
@pytest.mark.parametrize("bits", [8, 4, 1])
def test_quantise(bits, proj_dim):
    found = ops.quantise_rows(random(5, proj_dim), bits=bits, seed=1)
    back = ops.dequantise_rows(found.codes, found.scales, bits=bits, seed=1)
    assert torch.as_tensor(back).isfinite().all()
