"""Small stores, and the helpers that tests of the datastore share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gradsift import Datastore, ProjectionSpec, Sketches, StoreSpec

HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def independent() -> ModuleType:
    return _load("independent")


@pytest.fixture(scope="session")
def faulty_os() -> ModuleType:
    return _load("faulty_os")


@pytest.fixture(scope="session")
def fault_layer() -> ModuleType:
    return _load("fault_layer")


@pytest.fixture(scope="session")
def small_job() -> ModuleType:
    return _load("small_job")


@pytest.fixture(scope="session")
def power_loss() -> ModuleType:
    return _load("power_loss")


class Stores:
    """Makes sketches and stores; `stores.path` is where the next one goes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store"

    @staticmethod
    def spec(rows: int | None = None, proj_dim: int = 256, seed: int = 0) -> StoreSpec:
        return StoreSpec(ProjectionSpec(proj_dim=proj_dim, seed=seed), data={} if rows is None else {"rows": rows})

    @staticmethod
    def sketches(n: int, proj_dim: int = 256, seed: int = 0) -> Sketches:
        rng = np.random.default_rng(seed)
        return Sketches(
            rng.normal(size=(n, proj_dim)).astype(np.float32),
            rng.random(n) + 1,
            rng.random(n) + 2,
            rng.random(n).astype(np.float32),
            rng.integers(1, 500, n),
        )

    def make(self, n: int = 5, **options: Any) -> Path:
        """A finished store of `n` rows with ids ``id 0`` …; options of `create`, and ``proj_dim``."""
        proj_dim = options.pop("proj_dim", 256)
        options = {"spec": self.spec(proj_dim=proj_dim), "shard_rows": 4096, **options}
        with Datastore.create(self.path, **options) as writer:
            writer.append([f"id {i}" for i in range(n)], self.sketches(n, proj_dim))
        return self.path

    def shards(self) -> list[Path]:
        return sorted(self.path.glob("shard-*.gs"))

    def names(self) -> list[str]:
        return sorted(p.name for p in self.path.iterdir())

    def files(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.path.iterdir()}


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path)
