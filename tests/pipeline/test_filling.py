"""Batches by memory: how many tokens, what is recorded, and what happens when memory does not suffice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradsift as gs
from gradsift.collector import GradientCollector
from gradsift.collector.language import LanguageForward
from gradsift.errors import CollectError
from gradsift.pipeline import Run, filling, parse_config
from gradsift.pipeline.collect import collect


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def task(self, title: str, total: int, unit: str, *, done: int = 0) -> Any:
        from contextlib import nullcontext

        def advance(n: int) -> None:
            self.done += n if title.startswith("checkpoint-") and title.endswith(", pool") else 0

        return nullcontext(advance)


@pytest.fixture
def small(record: dict[str, Any]) -> dict[str, Any]:
    """One checkpoint, batches sized by the machine."""
    record["warmup"]["epochs"] = 1
    record["collect"]["max_tokens"] = "auto"
    return record


def run_collect(record: dict[str, Any], listener: Listener | None = None, **settings: Any) -> Path:
    collect(Run.open(parse_config(record, base=Path("/")), listener), **settings)
    return next((Path(record["run_dir"]) / "stores").iterdir())


def plan_of(stores: Path, name: str = "pool") -> Any:
    return json.loads((stores / f"{name}.step/batches.json").read_text())


def bytes_of(stores: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (stores / "pool").glob("*.gs")}


def batch_sizes(monkeypatch: pytest.MonkeyPatch, fails: Any = None) -> list[tuple[int, int]]:
    """(samples, tokens) of every batch collected from now on; `fails` says which of them run out of memory."""
    original, seen = GradientCollector.start, []

    def collect_or_fail(self: Any, batch: Any) -> Any:
        size = len(batch["cu_seqlens"]) - 1, int(batch["input_ids"].numel())
        if fails is not None and fails(*size):
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        seen.append(size)
        return original(self, batch)

    monkeypatch.setattr(GradientCollector, "start", collect_or_fail)
    return seen


def test_the_chosen_size_is_said_recorded_and_kept_by_a_resumed_run(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    stores = run_collect(small, listener)
    plan = plan_of(stores)
    assert plan == {"asked": "auto", "layout": "packed", "steps": [[0, filling.MOST_TOKENS["cpu"]]]}
    assert any(line.startswith("checkpoint-") and "1024 tokens a batch (" in line for line in listener.lines)
    assert any("parameters in float32; float32 products" in line for line in listener.lines)
    whole = bytes_of(stores)
    (stores / "pool.step/batches.json").write_text(json.dumps({**plan, "steps": [[0, 64]]}))
    for shard in sorted((stores / "pool").glob("*.gs"))[1:3]:
        shard.unlink()
    sizes = batch_sizes(monkeypatch)
    run_collect(small)
    assert len(bytes_of(stores)) == len(whole)
    assert max(tokens for _, tokens in sizes) <= 64


def test_a_limit_makes_batches_smaller(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradientCollector, "bytes_per_token", lambda self, batch: 2**20)
    small["collect"]["memory_limit_gib"] = 100 / 1024
    sizes = batch_sizes(monkeypatch)
    stores = run_collect(small)
    assert plan_of(stores)["steps"] == [[0, 100]]
    assert 50 < max(tokens for _, tokens in sizes) <= 100


def test_a_limit_below_one_sample_is_said_and_samples_are_tried_alone(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GradientCollector, "bytes_per_token", lambda self, batch: 2**30)
    small["collect"]["memory_limit_gib"] = 1.0
    listener, sizes = Listener(), batch_sizes(monkeypatch)
    run_collect(small, listener)
    assert any("is tried alone" in line for line in listener.lines)
    assert {samples for samples, _ in sizes} == {1}


def test_another_limit_is_another_plan(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradientCollector, "bytes_per_token", lambda self, batch: 2**20)
    for mebibytes in (100, 50):
        small["collect"]["memory_limit_gib"] = mebibytes / 1024
        stores = run_collect(small)
        assert plan_of(stores)["steps"] == [[0, mebibytes]]
        next((stores / "pool").glob("*.gs")).unlink()


def test_a_longest_sample_without_labels_is_not_taken_for_a_small_one(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    small["model"]["max_length"] = 20
    original, seen = GradientCollector.bytes_per_token, []

    def asked(self: Any, batch: Any) -> int:
        seen.append((int(batch["input_ids"].numel()), int((batch["labels"] != -100).sum())))
        return original(self, batch)

    monkeypatch.setattr(GradientCollector, "bytes_per_token", asked)
    longest = Path(small["pool"]["sources"][0])
    row = {"id": "x", "messages": [{"role": "user", "content": "a" * 40}, {"role": "assistant", "content": "b"}]}
    longest.write_text(longest.read_text() + json.dumps(row) + "\n")
    run_collect(small)
    assert seen[0] == (20, 1)


def test_a_model_that_takes_no_packed_batches_gets_padded_ones(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crosses(self: Any, *rest: Any) -> None:
        raise CollectError("samples see each other")

    monkeypatch.setattr(LanguageForward, "try_packing", crosses)
    listener = Listener()
    stores = run_collect(small, listener)
    assert plan_of(stores)["layout"] == "padded"
    assert any("takes no packed ones: samples see each other" in line for line in listener.lines)
    assert gs.Datastore.open(stores / "pool").complete


def test_running_out_of_memory_halves_the_batch_and_goes_on(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        listener = Listener()
        sizes = batch_sizes(patch, fails=lambda samples, tokens: samples > 1 and tokens > 60)
        stores = run_collect(small, listener)
    assert listener.done == 36, "what is done again is not counted twice"
    assert max(tokens for samples, tokens in sizes if samples > 1) <= 60
    assert any(line.startswith("memory did not suffice for ") for line in listener.lines), listener.lines
    steps = plan_of(stores)["steps"]
    assert steps[0][0] == 0
    assert steps[0][1] <= 60
    rows = gs.Datastore.open(stores / "pool").rows(0, 36)
    calm = run_collect({**small, "run_dir": str(tmp_path / "calm")})
    want = gs.Datastore.open(calm / "pool").rows(0, 36)
    assert np.abs(rows - want).max() < 1e-5 * np.abs(want).max()


def test_a_size_lowered_halfway_holds_from_that_shard_on(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def fails_once(samples: int, tokens: int) -> bool:
        calls[0] += samples > 1
        return calls[0] == 3 and samples > 1

    batch_sizes(monkeypatch, fails=fails_once)
    stores = run_collect(small)
    steps = plan_of(stores)["steps"]
    assert [first for first, _ in steps] == [0, 16]
    assert steps[1][1] < steps[0][1]
    plan = filling.BatchPlan.read(stores / "pool.step/batches.json")
    assert plan is not None
    assert [plan.tokens_at(row) for row in (0, 8, 16, 35)] == [steps[0][1]] * 2 + [steps[1][1]] * 2


def test_a_sample_that_does_not_fit_alone_is_named(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    batch_sizes(monkeypatch, fails=lambda samples, tokens: True)
    monkeypatch.setattr(GradientCollector, "bytes_per_token", lambda self, batch: 2**20)
    with pytest.raises(CollectError, match=r"sample '(digits|capitals)-\d+': expected memory for its \d+ tokens alone"):
        run_collect(small)


def test_a_longest_sample_that_cannot_be_measured_is_named(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_sizes(monkeypatch, fails=lambda samples, tokens: True)
    with pytest.raises(CollectError, match=r"expected memory for its \d+ tokens alone, got: .*can't allocate memory"):
        run_collect(small)


def test_another_failure_is_not_taken_for_memory(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def collect_badly(self: Any, batch: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(GradientCollector, "bytes_per_token", lambda self, batch: 2**20)
    monkeypatch.setattr(GradientCollector, "start", collect_badly)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_collect(small)


def test_a_profile_is_said_and_written_beside_the_store(small: dict[str, Any]) -> None:
    listener = Listener()
    stores = run_collect(small, listener, profile=True)
    table = next(line for line in listener.lines if "pool: where the time went" in line)
    record = json.loads((stores / "pool.step/profile.json").read_text())
    assert set(record["parts"]) == {"forward", "backward", "kernels", "store", "waiting", "other"}
    assert all(part["seconds"] > 0 and name in table for name, part in record["parts"].items())
    assert sum(part["seconds"] for part in record["parts"].values()) == pytest.approx(record["total_seconds"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is given back through glibc, on Linux")
def test_holes_in_the_heap_are_given_back() -> None:
    code = """
import ctypes
from gradsift.pipeline.filling import give_back
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
blocks = [libc.malloc(65536) for _ in range(3200)]
for block in blocks:
    ctypes.memset(block, 1, 65536)
for block in blocks[:-1]:  # the last holds the heap's end
    libc.free(block)
before = resident()
give_back()
print(before - resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) > 150


def test_memory_is_given_back_after_every_shard(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(filling, "give_back", lambda: calls.append(1))
    run_collect(small)
    assert len(calls) == 5 + 1  # shards of 36 candidates, and of 3 targets


def test_onednn_is_told_to_keep_fewer_products_unless_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradsift.pipeline.models import quiet_libraries

    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    quiet_libraries()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "128"
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    quiet_libraries()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
