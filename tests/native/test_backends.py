"""What "auto" takes, and what is said where it cannot."""

import sys
import threading
import time
from importlib.machinery import SourceFileLoader

import numpy as np
import pytest

from gradsift import ProjectionSpec, backends, ops
from gradsift.errors import BackendUnavailableError
from gradsift.ops import _dispatch


@pytest.fixture(autouse=True)
def _no_forced_backend(monkeypatch):
    monkeypatch.delenv("GRADSIFT_BACKEND", raising=False)


@pytest.fixture
def no_native(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradsift._native", None)  # import then raises ImportError


def test_auto_takes_the_compiled_backend(native):
    assert backends.choose("project_linear") == "cpu"
    assert backends.available() == ("cpu", "reference")


def test_the_environment_decides_what_auto_takes_and_nothing_else(native, monkeypatch):
    monkeypatch.setenv("GRADSIFT_BACKEND", "reference")
    assert backends.choose("project_rows") == "reference"
    assert backends.choose("project_rows", "cpu") == "cpu"
    assert "forced by GRADSIFT_BACKEND=reference" in backends.explain("project_rows")


def test_a_wrong_name_in_the_environment_is_refused_and_explained(native, monkeypatch):
    monkeypatch.setenv("GRADSIFT_BACKEND", "cuda")
    with pytest.raises(ValueError, match=r"GRADSIFT_BACKEND: expected one of .*got 'cuda'"):
        backends.choose("project_linear")
    assert "got 'cuda'" in backends.explain("project_linear")


def test_a_missing_extension_is_named_with_how_to_build_it_and_never_replaced(no_native):
    with pytest.raises(BackendUnavailableError, match=r"gradsift\._native .*ImportError.*pip install \."):
        backends.choose("project_linear")
    grads = np.ones((1, 4), np.float32)
    with pytest.raises(BackendUnavailableError):
        ops.project_rows(grads, ProjectionSpec(256), param="w")
    assert backends.available() == ("reference",)
    assert ops.project_rows(grads, ProjectionSpec(256), param="w", backend="reference").shape == (1, 256)
    assert "not available" in backends.explain("project_linear")


def test_explain_names_the_level_in_force_and_why(native, monkeypatch):
    monkeypatch.delenv("GRADSIFT_ISA", raising=False)
    native.set_isa("scalar")
    text = backends.explain("project_linear")
    assert text.startswith("project_linear: auto takes cpu\n")
    assert "instruction set scalar" in text
    assert f"built: {', '.join(native.built_isas())}" in text


@pytest.mark.parametrize("call", [backends.choose, backends.explain])
def test_unknown_ops_are_refused(call):
    with pytest.raises(ValueError, match="op: expected one of"):
        call("project_conv")


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match="backend: expected one of"):
        backends.choose("project_linear", "tpu")


def test_first_calls_from_two_threads_wait_for_the_module(monkeypatch):
    path = "gradsift.ops.project_rows.reference"
    begun, results = threading.Event(), []
    run = SourceFileLoader.exec_module

    def slowly(loader, module):
        if module.__name__ == path:
            begun.set()
            time.sleep(0.3)
        run(loader, module)

    def call():
        results.append(
            ops.project_rows(np.ones((1, 3), np.float32), ProjectionSpec(256), param="w", backend="reference")
        )

    _dispatch._function.cache_clear()
    monkeypatch.delitem(sys.modules, path, raising=False)
    monkeypatch.setattr(SourceFileLoader, "exec_module", slowly)
    threads = [threading.Thread(target=call) for _ in range(2)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(10)
    assert len(results) == 2
