"""Fixtures of the ops' tests: every backend, every instruction set of the native one, and the error budgets."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from gradsift import Gamma

NATIVE = importlib.util.find_spec("gradsift._native") is not None
GAMMAS = [
    Gamma.sgd(),
    Gamma.adam(step=37),
    Gamma.less(),
    Gamma.affine(step=37),
    Gamma.second_moment(step=37),
]


def _backends():
    yield pytest.param(("reference", None), id="reference")
    if not NATIVE:
        yield pytest.param(("cpu", None), id="cpu")
        return
    from gradsift import _native

    for isa in _native.isas():
        yield pytest.param(("cpu", isa), id=f"cpu-{isa}")


@pytest.fixture(params=_backends())
def backend(request):
    """Name of a backend; the native one once per instruction set, which is in force while the test runs."""
    name, isa = request.param
    if name == "reference":
        yield name
        return
    if not NATIVE:
        pytest.skip("gradsift._native is not built here: `pip install .` builds it")
    from gradsift import _native

    before = _native.isa()
    _native.set_isa(isa)
    assert _native.isa() == isa
    yield name
    _native.set_isa(before)


@pytest.fixture
def rng():
    return np.random.default_rng(20240402)


@pytest.fixture(params=GAMMAS, ids=lambda g: g.kind)
def gamma(request):
    """Every Γ that is continuous in g; `sign` is tested exactly, on integers."""
    return request.param


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture(scope="session")
def budget():
    """`budget(op, quantity)`: the largest ‖got − want‖ / ‖want‖ that docs/numerics.md allows."""
    module_spec = importlib.util.spec_from_file_location("budgets", Path(__file__).with_name("budgets.py"))
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    budgets = module.read_budgets()
    return lambda op, quantity: budgets[op, quantity]


@pytest.fixture(scope="session")
def relative_error():
    """The largest ‖got − want‖ / ‖want‖ of any row."""

    def largest(got, want):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        return np.max(np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1))

    return largest


@pytest.fixture(scope="session")
def moments_like():
    """`moments_like(rng, shape, dtype)`: (exp_avg, exp_avg_sq) as training leaves them, of six orders of magnitude."""

    def make(rng, shape, dtype="float32"):
        spread = 10.0 ** rng.uniform(-3, 3, size=shape)
        m = torch.tensor(0.3 * spread * rng.normal(size=shape)).to(getattr(torch, dtype))
        v = torch.tensor(np.square(spread * rng.uniform(0.5, 2, size=shape))).to(getattr(torch, dtype))
        return m, v

    return make
