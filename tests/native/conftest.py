"""Fixtures of the native core's tests. All of them need the extension; without it they skip and say how to build it."""

import importlib.util
import platform

import numpy as np
import pytest

NATIVE = importlib.util.find_spec("gradsift._native") is not None
X86 = platform.machine() in ("x86_64", "AMD64")
ISAS = ["scalar", "avx2", "avx512", "avx512vnni", "avx512bf16"] if X86 else ["scalar", "neon"]


@pytest.fixture
def native():
    if not NATIVE:
        pytest.skip("gradsift._native is not built here: `pip install .` builds it")
    from gradsift import _native

    before = _native.isa()
    yield _native
    _native.set_isa(before)


@pytest.fixture(params=ISAS)
def isa(native, request):
    """Each instruction set in turn, in force while the test runs."""
    if request.param not in native.isas():
        pytest.skip(f"{request.param}: not built, or this CPU lacks it; it runs {native.isas()}")
    native.set_isa(request.param)
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(7)
