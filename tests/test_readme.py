"""The README's examples, read and run: what stands there is the first thing that anybody tries."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import gradsift as gs
from gradsift.pipeline import parse_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    assert len(found) == 1, f"one {language} block was expected"
    return str(found[0])


def test_the_configuration_is_valid() -> None:
    config = parse_config(tomllib.loads(block("toml")), base=ROOT)
    assert config.targets["skill"].test == [str(ROOT / "skill-test.jsonl")]


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a collector that makes rows up: model and moments are the reader's."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    class Collector:
        def __init__(self, model: object, spec: gs.ProjectionSpec, gamma: str, moments: object = None) -> None:
            self.spec = spec

        def collect(self, batch: int) -> gs.Sketches:
            rows = rng.normal(size=(batch, self.spec.proj_dim)).astype(np.float32)
            ones = np.ones(batch)
            return gs.Sketches(rows, ones, ones, ones.astype(np.float32), np.ones(batch, dtype=np.int64))

    monkeypatch.setattr(gs, "GradientCollector", Collector)
    monkeypatch.setattr(gs, "load_moments", lambda folder, model: None)
    ids = [f"s{i}" for i in range(40)]
    names: dict[str, object] = {"batches": [(ids[:30], 30), (ids[30:], 10)], "target_batch": 3}
    exec(compile(block("python"), "README.md", "exec"), names)
    result = names["result"]
    assert isinstance(result, object)
    assert len(result.ids) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), f"{document} links {link}"
