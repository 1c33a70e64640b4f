"""Fixtures of the ops' tests: every backend, and every instruction set of the native one."""

import importlib.util

import numpy as np
import pytest

NATIVE = importlib.util.find_spec("gradsift._native") is not None


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
        pytest.skip("gradsift._native is not built here: pip install . builds it")
    from gradsift import _native

    before = _native.isa()
    _native.set_isa(isa)
    assert _native.isa() == isa
    yield name
    _native.set_isa(before)


@pytest.fixture
def rng():
    return np.random.default_rng(20240402)
