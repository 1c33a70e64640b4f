"""Other people's projections are measured on a card where they are installed and run, and not where they do not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/gpu_project_rows.py, on CPU memory; neither peer is installed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("gpu_project_rows")
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    about = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    for name in ("fast_jl", "sjlt"):
        monkeypatch.setitem(sys.modules, name, None)
    return module


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))


def test_without_them_nothing_is_measured(cases: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert cases.peers(300, 2, 512) == {}
    assert "no fast_jl: " in capsys.readouterr().out


@pytest.mark.parametrize(("batch", "kernel"), [(8, "project_rademacher_8"), (16, "project_rademacher_16")])
def test_fast_jl_gets_rows_numbers_seed_and_multiprocessors(cases, monkeypatch, batch: int, kernel: str) -> None:
    calls: list[Any] = []
    install(monkeypatch, "fast_jl", **{kernel: lambda grads, *words: calls.append((tuple(grads.shape), *words))})
    cases.peers(12, batch, 512)["fast_jl"](torch.ones(batch, 3, 4))
    assert calls == [((batch, 12), 512, 0, 132)] * 2


def test_sjlt_has_one_entry_a_column(cases, monkeypatch) -> None:
    made: list[Any] = []

    def projection(**settings: int):
        made.append(settings)
        return lambda grads: grads[:, :2]

    install(monkeypatch, "sjlt", SJLTProjection=projection)
    assert cases.peers(12, 8, 512)["sjlt"](torch.ones(8, 3, 4)).shape == (8, 2)
    assert made == [{"original_dim": 12, "proj_dim": 512, "c": 1}]


def test_one_whose_kernels_do_not_run_here_is_left_out_and_said(cases, monkeypatch, capsys) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("CUDA error: the provided PTX was compiled\nwith an unsupported toolchain.")

    install(monkeypatch, "fast_jl", project_rademacher_8=fails)
    install(monkeypatch, "sjlt", SJLTProjection=lambda **_: lambda grads: grads)
    assert list(cases.peers(12, 8, 512)) == ["sjlt"]
    assert "no fast_jl: CUDA error: the provided PTX was compiled with an" in capsys.readouterr().out
