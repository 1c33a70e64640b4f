"""Quantised rows on a card: the bytes of the CPU."""

import numpy as np
import pytest

from gradsift import ops

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("bits", [8, 4, 1])
@pytest.mark.parametrize("proj_dim", [256, 1024, 8192, 32768, 65536])
def test_codes_scales_norms_and_rows_are_those_of_the_cpu(bits, proj_dim):
    rng = np.random.default_rng(bits * proj_dim)
    rows = (rng.standard_normal((999 if proj_dim < 8192 else 40, proj_dim)) ** 3).astype(np.float32)
    rows[3], rows[4, 9], rows[5, 0] = 0, np.nan, np.inf
    rows[6] *= np.float32(1e-33)
    got = ops.quantise_rows(torch.from_numpy(rows).cuda(), bits=bits, seed=2**63 + 7)
    want = ops.quantise_rows(rows, bits=bits, seed=2**63 + 7)
    assert got.codes.is_cuda
    for name in ("codes", "scales", "norms"):
        a, b = getattr(got, name).cpu().numpy(), getattr(want, name)
        np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"), err_msg=name)
    back = ops.dequantise_rows(got.codes, got.scales, bits=bits, seed=2**63 + 7).cpu().numpy()
    right = ops.dequantise_rows(want.codes, want.scales, bits=bits, seed=2**63 + 7)
    np.testing.assert_array_equal(back.view("u4"), right.view("u4"))


def test_rows_apart_and_output_given():
    wide = torch.randn(70, 1500, device="cuda")
    rows = wide[:, 7:1031]
    got = ops.quantise_rows(rows, bits=4, seed=1)
    want = ops.quantise_rows(rows.cpu().numpy(), bits=4, seed=1)
    np.testing.assert_array_equal(got.codes.cpu().numpy(), want.codes)
    out = torch.full((70, 1024), float("nan"), device="cuda")
    assert ops.dequantise_rows(got.codes, got.scales, bits=4, seed=1, out=out) is out
    assert out.isfinite().all()
