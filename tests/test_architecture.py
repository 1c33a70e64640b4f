"""Which part may import which: the arrows of docs/architecture.md, read off the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "python" / "gradsift"
LEAVES = {
    "errors",
    "files",
    "naming",
    "sketches",
    "specs",
    "visible",
}  # imported by anyone, import nothing but one another
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "naming": set(),
    "sketches": set(),
    "specs": set(),
    "visible": set(),
    "backends": {"errors", "_native"},
    "ops": LEAVES | {"backends", "_native"},
    "datastore": LEAVES | {"ops", "_native"},
    "collector": LEAVES | {"ops", "backends"},
    "report": LEAVES,
    "selection": LEAVES | {"ops", "datastore", "report"},
    "data": LEAVES,
    "demo": LEAVES,
    "pipeline": LEAVES | {"ops", "backends", "collector", "selection", "datastore", "data", "demo", "report"},
    "cli": LEAVES | {"backends", "pipeline", "datastore"},
    "__main__": {"cli"},
}
EXTRAS = {
    "torch", "transformers", "peft", "datasets", "accelerate", "safetensors", "tokenizers", "pyarrow", "gguf",
    "fsspec", "s3fs", "triton", "bm25s",
}  # fmt: skip
# Extras a part may use at all; what is not listed uses none.
MAY_USE = {
    "backends": {"torch", "triton"},
    "collector": {"torch", "transformers", "peft", "safetensors"},
    "data": {"torch", "datasets", "pyarrow"},
    "datastore/_remote.py": {"fsspec"},
    "datastore/export.py": {"pyarrow"},
    "datastore/less.py": {"torch"},
    "demo": {"torch", "transformers", "tokenizers", "gguf", "safetensors"},
    "pipeline": {"torch", "transformers", "peft", "datasets", "accelerate", "safetensors"},
    "cli": {"torch"},
    "ops/torch_ops.py": {"torch"},
    "selection/given.py": {"bm25s"},
    "gpu": {"torch", "triton"},
}
# Parts that are imported only once torch is wanted; elsewhere extras are imported inside the functions that use them.
TORCH_AT_THE_TOP = {"collector", "ops/torch_ops.py"}
# Backends that read CUDA tensors: the dispatcher imports them once it is handed one.
GPU_MODULES = re.compile(r"ops/\w+/(triton\w*|cuda)\.py")


def sources():
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def part_of(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports(path):
    """(absolute module name, whether the statement runs when the module is imported)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)
    }
    for_types = {
        id(n)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.unparse(test.test)
        for n in ast.walk(test)
    }
    package = ["gradsift", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree):
        at_import = id(node) not in inside and id(node) not in for_types
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            # `from gradsift import ops` names a part; `from gradsift.ops import x` already has.
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "gradsift" else [module]
            yield from ((name, at_import) for name in names)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    part = part_of(path)
    ours = {name.split(".")[1] for name, _ in imports(path) if name.startswith("gradsift.")}
    # `from gradsift import Gamma` takes what the package's face re-exports from its leaves.
    face = {"Gamma", "ProjectionSpec", "StoreSpec", "Sketches", "SketchSink", "__version__"}
    assert ours - face - MAY_IMPORT[part] - {part} == set()


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_extras_are_used_only_where_they_belong_and_imported_late(path):
    relative = path.relative_to(ROOT).as_posix()
    key = "gpu" if GPU_MODULES.fullmatch(relative) else relative if relative in MAY_USE else part_of(path)
    used = {name.split(".")[0] for name, _ in imports(path)} & EXTRAS
    assert used <= MAY_USE.get(key, set())
    early = {name.split(".")[0] for name, at_import in imports(path) if at_import} & EXTRAS
    assert early <= (MAY_USE["gpu"] if key == "gpu" else {"torch"} if key in TORCH_AT_THE_TOP else set())


def test_the_checks_above_see_imports_of_every_form(tmp_path, monkeypatch):
    package = tmp_path / "datastore"
    package.mkdir()
    module = package / "bad.py"
    module.write_text(
        "import torch.nn as nn\n"
        "from gradsift import ops, errors\n"
        "from ..collector import x\n"
        "from . import reader\n"
        "def f():\n    from transformers import Trainer\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert set(imports(module)) == {
        ("torch.nn", True),
        ("gradsift.ops", True),
        ("gradsift.errors", True),
        ("gradsift.collector", True),
        ("gradsift.datastore", True),
        ("transformers", False),
    }
    with pytest.raises(AssertionError):
        test_imports_follow_the_arrows(module)
    with pytest.raises(AssertionError):
        test_extras_are_used_only_where_they_belong_and_imported_late(module)


def test_every_part_has_its_arrows_written_down():
    parts = {part_of(p) for p in sources()}
    assert parts - set(MAY_IMPORT) == set()


def run_python(code):
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.mark.parametrize(
    "modules",
    [
        "gradsift",
        "gradsift.ops, gradsift.datastore, gradsift.selection, gradsift.data",
        "gradsift.cli, gradsift.pipeline",
    ],
)
def test_importing_loads_neither_torch_nor_any_extra(modules):
    code = f"import {modules}, sys; print(sorted({EXTRAS!r} & set(sys.modules)))"
    assert run_python(code) == "[]"


def test_ops_work_where_no_extra_is_installed():
    code = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import numpy as np
import gradsift as gs

spec = gs.ProjectionSpec(256, seed=1)
sketch = gs.ops.project_rows(np.ones((1, 3, 5), np.float32), spec, param="w", backend="reference")
print(float(np.abs(sketch).sum()) > 0)
"""
    assert run_python(code) == "True"
