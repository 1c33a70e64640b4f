"""Choosing the instruction set: every level can be forced, a wrong name is an error at first use and not at import."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradsift
from gradsift import ProjectionSpec, ops

SOURCE = Path(gradsift.__file__).parents[1]
CALL = """
import numpy as np
from gradsift import ProjectionSpec, _native, ops
a, g = np.ones((1, 2, 40), np.float32), np.ones((1, 2, 9), np.float32)
ops.project_linear(a, g, ProjectionSpec(256), param="w", backend="cpu")
print(_native.isa())
"""


def run(code, **environment):
    env = {**os.environ, "PYTHONPATH": str(SOURCE), **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


def test_the_best_level_of_this_cpu_is_taken_unless_told_otherwise(native):
    assert run(CALL, GRADSIFT_ISA="").stdout.split() == [native.isas()[0]]


def test_the_environment_forces_each_level(isa):
    assert run(CALL, GRADSIFT_ISA=isa).stdout.split() == [isa]


def test_set_isa_forces_each_level_and_all_compute_the_same_integers(native, isa, rng):
    a, g = rng.integers(-4, 5, (3, 11, 300)).astype(np.float32), rng.integers(-4, 5, (3, 11, 21)).astype(np.float32)
    got = ops.project_linear(a, g, ProjectionSpec(1024), param="w", backend="cpu")
    assert native.isa() == isa
    native.set_isa("scalar")
    np.testing.assert_array_equal(got, ops.project_linear(a, g, ProjectionSpec(1024), param="w", backend="cpu"))


def test_a_wrong_name_in_the_environment_is_an_error_at_first_use_and_import_succeeds(native):
    assert run("import gradsift._native", GRADSIFT_ISA="avx1024").returncode == 0
    done = run(CALL, GRADSIFT_ISA="avx1024")
    assert done.returncode == 1
    assert "GRADSIFT_ISA: expected one of" in done.stderr
    assert "got 'avx1024'" in done.stderr


def test_a_wrong_name_is_refused_and_changes_nothing(native):
    before = native.isa()
    with pytest.raises(ValueError, match=r"isa: expected one of .*scalar.*, got 'neon9'"):
        native.set_isa("neon9")
    assert native.isa() == before


def test_scalar_is_always_built_and_last(native):
    assert native.isas()[-1] == native.built_isas()[-1] == "scalar"
    assert set(native.isas()) <= set(native.built_isas())


def test_the_stub_names_what_the_module_has(native):
    stub = ast.parse((SOURCE / "gradsift" / "_native.pyi").read_text("utf-8"))
    declared = {
        node.name: [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        for node in stub.body
        if isinstance(node, ast.FunctionDef)
    }
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            init = next(p for p in node.body if isinstance(p, ast.FunctionDef) and p.name == "__init__")
            declared[node.name] = [a.arg for a in init.args.kwonlyargs]
    present = {name for name, value in inspect.getmembers(native) if callable(value) and not name.startswith("_")}
    assert set(declared) == present
    for name, arguments in declared.items():
        value = getattr(native, name)
        signature = (value.__init__ if inspect.isclass(value) else value).__doc__.splitlines()[0]
        positions = [signature.index(f"{argument}:") for argument in arguments]
        assert positions == sorted(positions), name
