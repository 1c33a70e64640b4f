"""Run by .ci/run in an environment with the core install alone: what must work without torch, and what must say so."""

import contextlib
import importlib.util
import io
import sys
import tempfile
from pathlib import Path

import numpy as np

import gradsift as gs

assert importlib.util.find_spec("torch") is None, "this smoke test is about an environment without torch"

spec = gs.ProjectionSpec(proj_dim=256)
rng = np.random.default_rng(0)
activations = rng.integers(-3, 4, size=(5, 7, 12)).astype(np.float32)
output_grads = rng.integers(-3, 4, size=(5, 7, 6)).astype(np.float32)
fused = gs.ops.project_linear(activations, output_grads, spec, param="layer.weight")
grads = np.einsum("bto,bti->boi", output_grads, activations)
np.testing.assert_array_equal(fused, gs.ops.project_rows(grads, spec, param="layer.weight", backend="reference"))

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "store"
    with gs.Datastore.create(path, spec=spec, dtype="float32") as store:
        store.append([f"sample-{i}" for i in range(5)], fused)
    result = gs.select(candidates=[gs.Datastore.open(path)], targets=[fused[2:3]], count=1)
assert list(result.ids) == ["sample-2"], result.ids

from gradsift.cli import main  # noqa: E402  # after the checks above, which must not need it

with tempfile.TemporaryDirectory() as folder:
    config = Path(folder) / "c.toml"
    sections = '[model]\npath = "nowhere"\n[pool]\nsources = ["p.jsonl"]\n[targets.t]\nsources = ["t.jsonl"]\n'
    config.write_text(f'run_dir = "run"\n{sections}', encoding="utf-8")
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(["run", str(config)])
    assert status == 1, "a missing extra must be an explained error"
    assert 'pip install "gradsift[hf]"' in said.getvalue(), said.getvalue()
print("core install: ops, datastore and selection work without torch", file=sys.stderr)
