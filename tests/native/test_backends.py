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
    assert backends.available()[-2:] == ("cpu", "reference")


def test_the_environment_decides_what_auto_takes_and_nothing_else(native, monkeypatch):
    monkeypatch.setenv("GRADSIFT_BACKEND", "reference")
    assert backends.choose("project_rows") == "reference"
    assert backends.choose("project_rows", "cpu") == "cpu"
    assert "forced by GRADSIFT_BACKEND=reference" in backends.explain("project_rows")


@pytest.mark.parametrize("name", ["tpu", "cuda", "triton"])  # unknown; not of this op; of another device
def test_a_wrong_name_in_the_environment_is_refused_and_explained(native, monkeypatch, name):
    monkeypatch.setenv("GRADSIFT_BACKEND", name)
    with pytest.raises(ValueError, match=f"GRADSIFT_BACKEND: expected one of .*got '{name}'"):
        backends.choose("project_linear")
    assert f"got '{name}'" in backends.explain("project_linear")


@pytest.mark.parametrize(("op", "backend"), [("project_linear", "triton"), ("project_rows", "cuda")])
def test_cuda_tensors_go_to_the_one_gpu_backend_and_nowhere_else(monkeypatch, op, backend):
    monkeypatch.setitem(backends._WHY_NOT, backend, lambda: None)
    assert backends.choose(op, device="cuda") == backend
    for other in ("cpu", "reference"):
        with pytest.raises(ValueError, match=r"backend: expected one of .* for arrays on device 'cuda', got"):
            backends.choose(op, other, device="cuda")
    monkeypatch.setitem(backends._WHY_NOT, backend, lambda: "no card in the machine")
    with pytest.raises(BackendUnavailableError, match="no card in the machine"):
        backends.choose(op, device="cuda")
    assert "no card in the machine" in backends.explain(op)
    assert backends.choose(op, device="cpu") == "cpu"


def test_triton_reads_cpu_memory_in_its_interpreter_alone(monkeypatch):
    monkeypatch.setitem(backends._WHY_NOT, "triton", lambda: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"expected one of \('cpu', 'reference'\) for arrays on device 'cpu'"):
        backends.choose("project_linear", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backends.choose("project_linear", "triton") == "triton"


def test_auto_never_takes_the_interpreter_for_cpu_memory(native, monkeypatch):
    monkeypatch.setitem(backends._WHY_NOT, "triton", lambda: None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backends.choose("project_linear") == "cpu"
    assert backends.choose("project_linear", device="cuda") == "triton"


def test_a_backend_forced_for_another_device_is_refused_with_how_to_undo_it(native, monkeypatch):
    monkeypatch.setenv("GRADSIFT_BACKEND", "cpu")
    with pytest.raises(ValueError, match=r"GRADSIFT_BACKEND: expected .*for arrays on device 'cuda'.*or unset it$"):
        backends.choose("project_rows", device="cuda")


def test_a_missing_extension_is_named_with_how_to_build_it_and_never_replaced(no_native):
    with pytest.raises(BackendUnavailableError, match=r"gradsift\._native .*ImportError.*pip install \."):
        backends.choose("project_linear")
    grads = np.ones((1, 4), np.float32)
    with pytest.raises(BackendUnavailableError):
        ops.project_rows(grads, ProjectionSpec(256), param="w")
    assert "cpu" not in backends.available()
    assert ops.project_rows(grads, ProjectionSpec(256), param="w", backend="reference").shape == (1, 256)
    assert "not available" in backends.explain("project_linear")


def test_explain_names_the_level_in_force_and_why(native, monkeypatch):
    monkeypatch.delenv("GRADSIFT_ISA", raising=False)
    native.set_isa("scalar")
    text = backends.explain("project_linear")
    assert text.startswith("project_linear: auto takes cpu for arrays on cpu\n")
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
