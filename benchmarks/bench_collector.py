"""`GradientCollector` against the plain forward and backward, the released LESS recipe, and a careful user's torch.

    python -m pytest benchmarks/bench_collector.py --model=FOLDER [--data=FOLDER] [--samples 2] [--rounds 3] [--record]

SmolLM2-135M-Instruct, or random weights of its shape where no ``--model`` is given; LoRA on q, k, v, o; lengths of real
instruction data. All cores, wall-clock time, everything in turn. The plain pass is a training step without the
optimizer: the batch's mean loss over all logits, gradients of what is trained.
"""

from __future__ import annotations

import ctypes
import gc
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gemm_peers
import language_model
import less_recipe
import sketch_peers
import timing
import user_recipe
from gradsift import GradientCollector, ProjectionSpec
from language_model import Batches

SPEC = ProjectionSpec(8192, seed=1)
LINEAR_LAYERS = r"_proj\."
pytestmark = [
    pytest.mark.benchmark(timer=timing.wall_clock),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]


@pytest.fixture
def options(request) -> dict[str, Any]:
    get = request.config.getoption
    return {
        "model": get("--model"),
        "data": get("--data"),
        "samples": get("--samples"),
        "rounds": get("--rounds"),
        "max_tokens": get("--max-tokens"),
    }


def batches_of(options: dict[str, Any], count: int | None = None) -> Batches:
    chosen = language_model.samples(count or options["samples"], options["data"], options["model"])
    return Batches.of(chosen, options["max_tokens"])


def about(options: dict[str, Any], batches: Batches) -> dict[str, Any]:
    return {
        "weights": "SmolLM2-135M-Instruct" if options["model"] else "random, SmolLM2-135M's shape",
        "lengths": "of --data" if options["data"] else "recorded",
        "samples": len(batches.alone),
        "tokens": batches.tokens,
        "label_tokens": batches.label_tokens,
        "padded_tokens": round(batches.padding * batches.tokens),
        "batches": len(batches.packed),
    }


def plain(model: Any, batches: list[dict[str, torch.Tensor]]) -> Callable[[], object]:
    """Forward and backward of each batch as in training."""

    def run() -> None:
        for batch in batches:
            inputs = {name: tensor for name, tensor in batch.items() if name != "cu_seqlens"}
            model(**inputs, use_cache=False).loss.backward()
            model.zero_grad(set_to_none=True)

    return run


def ours(collector: GradientCollector, batches: list[dict[str, torch.Tensor]]) -> Callable[[], list[Any]]:
    return lambda: [collector.collect(batch) for batch in batches]


def check_same_work(sketches: list[Any], rows: torch.Tensor) -> None:
    """A projection keeps norms to about a part in a hundred at 8,192 numbers: what a peer sketched is what we sketched.

    Sorted, since padded batches hold the samples in another order. bfloat16 moves single samples by some parts in a
    hundred.
    """
    want = np.sort(np.concatenate([s.gamma_norm for s in sketches]))
    np.testing.assert_allclose(np.sort(rows.norm(dim=1).numpy()), want, rtol=0.1)


@pytest.mark.parametrize("rank", [8, 16, 128])
def test_bf16(rank, options, record, benchmark):
    batches = batches_of(options)
    model = language_model.with_lora(language_model.load_model(options["model"], torch.bfloat16), rank)
    moments = language_model.moments_of(model)
    collector = GradientCollector(model, SPEC, gamma="adam", moments=moments)
    loop = user_recipe.UserLoop(model, moments, SPEC.proj_dim)
    hooks = user_recipe.UserHooks(model, moments, SPEC.proj_dim)
    less = less_recipe.LessRecipe(model, moments)
    as_less = GradientCollector(model, SPEC, gamma="less", moments=moments).collect(batches.alone[0])
    np.testing.assert_allclose(float(less.vector(batches.alone[0]).norm()), as_less.gamma_norm[0], rtol=0.05)
    check_same_work(ours(collector, batches.packed)(), loop.collect(batches.alone))
    check_same_work(ours(collector, batches.padded)(), hooks.collect(batches.padded))
    times = race(
        {
            "ours packed": ours(collector, batches.packed),
            "ours padded": ours(collector, batches.padded),
            "plain packed": plain(model, batches.packed),
            "plain padded": plain(model, batches.padded),
            "LESS without projection": lambda: less.collect(batches.alone, less_recipe.no_projection),
            "user loop": lambda: loop.collect(batches.alone),
            "user hooks": lambda: hooks.collect(batches.padded),
        },
        options,
        benchmark,
    )
    n = len(batches.alone)
    projecting, how = sketch_peers.traker_seconds(
        less.entries, SPEC.proj_dim, less_recipe.PROJECT_INTERVAL, torch.bfloat16, slice_entries=250_000, rounds=2
    )
    less_s = times.median("LESS without projection") / n + projecting / less_recipe.PROJECT_INTERVAL
    best = times.best(["ours packed", "ours padded"])
    user = times.best(["user loop", "user hooks"])
    record(
        f"r{rank} bf16",
        **to_plain(times),
        samples_per_s={name: _short(n / times.median(name)) for name in times.seconds} | {"LESS": _short(1 / less_s)},
        ours=best,
        to_less=round(less_s * n / times.median(best), 1),
        to_less_without_projection=round(times.ratio("LESS without projection", best), 2),
        less_projection_how=f"bfloat16, 16 rows: {how}",
        user=user,
        to_user=round(times.ratio(user, best), 2),
        trained=less.entries,
        **about(options, batches),
    )


@pytest.mark.parametrize("rank", [16, 128])
def test_fp32(rank, options, record, benchmark):
    """Plain in torch's best float32 path here ("medium"), and in the one it takes unasked, by name."""
    batches = batches_of(options)
    model = language_model.with_lora(language_model.load_model(options["model"], torch.float32), rank)
    collector = GradientCollector(model, SPEC, gamma="adam", moments=language_model.moments_of(model))
    precise = "medium" if gemm_peers.medium_is_float32() else "highest"

    def at(call: Callable[[], object], precision: str = precise) -> Callable[[], object]:
        return gemm_peers.at_precision(precision, call)

    times = race(
        {
            "ours packed": at(ours(collector, batches.packed)),
            "ours padded": at(ours(collector, batches.padded)),
            "plain packed": at(plain(model, batches.packed)),
            "plain padded": at(plain(model, batches.padded)),
        },
        options,
        benchmark,
    )
    unasked = timing.alternate(
        {
            "ours packed, unasked": ours(collector, batches.packed),
            "plain padded, unasked": plain(model, batches.padded),
        },
        timing.wall_clock,
        rounds=1,
        warm=False,
    )
    n = len(batches.alone)
    every = times.seconds | unasked.seconds
    record(
        f"r{rank} fp32",
        **to_plain(times),
        samples_per_s={name: _short(n / float(np.median(s))) for name, s in every.items()},
        precision=precise,
        **about(options, batches),
    )


@pytest.mark.parametrize("dtype", ["bf16"])
def test_full_parameters(dtype, options, record, benchmark):
    """Every linear layer but the output layer, Adam's moments for each; the plain pass forms their gradients."""
    batches = batches_of(options, max(2, options["samples"] // 2))
    model = language_model.load_model(options["model"], torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(re.search(LINEAR_LAYERS, name) is not None)
    moments = language_model.moments_of(model)
    collector = GradientCollector(model, SPEC, gamma="adam", moments=moments)
    times = race(
        {
            "ours packed": ours(collector, batches.packed),
            "ours padded": ours(collector, batches.padded),
            "plain packed": plain(model, batches.packed),
            "plain padded": plain(model, batches.padded),
        },
        options,
        benchmark,
    )
    n = len(batches.alone)
    record(
        f"all linear layers {dtype}",
        **to_plain(times),
        samples_per_s={name: _short(n / times.median(name)) for name in times.seconds},
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        **about(options, batches),
    )


@pytest.mark.parametrize("rank", [16, 128])
def test_memory(rank, options, record, benchmark):
    """Peak resident memory above that before, of the plain pass and of ours, for a batch and for one half its size."""
    count = 2 * options["samples"]
    batches = batches_of(options, count)
    model = language_model.with_lora(language_model.load_model(options["model"], torch.bfloat16), rank)
    collector = GradientCollector(model, SPEC, gamma="adam", moments=language_model.moments_of(model))
    whole = batches.packed[:1]
    tokens = int(whole[0]["cu_seqlens"][-1])
    half = batches_of({**options, "max_tokens": math.ceil(tokens / 2)}, count).packed[:1]
    plain(model, whole)()
    benchmark.pedantic(ours(collector, whole), rounds=1)
    found = {
        "plain_mib": peak_above(plain(model, whole)),
        "ours_mib": peak_above(ours(collector, whole)),
        "plain_half_mib": peak_above(plain(model, half)),
        "ours_half_mib": peak_above(ours(collector, half)),
    }
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = len(whole[0]["cu_seqlens"]) - 1
    record(
        f"r{rank} bf16",
        **found,
        above_plain_mib=round(found["ours_mib"] - found["plain_mib"], 1),
        gradients_mib=round(4 * trained * rows / 2**20, 1),
        samples_in_batch=rows,
        tokens_in_batch=tokens,
    )


def race(calls: dict[str, Callable[[], object]], options: dict[str, Any], benchmark: Any) -> timing.Times:
    return timing.alternate(calls, timing.wall_clock, rounds=options["rounds"], warm=False, benchmark=benchmark)


def to_plain(times: timing.Times) -> dict[str, Any]:
    """Our time to the plain pass's over the same batches, for both layouts; and our best to the best of theirs."""
    best, peer = times.best(["ours packed", "ours padded"]), times.best(["plain packed", "plain padded"])
    return {
        "packed_to_plain": round(times.ratio("ours packed", "plain packed"), 3),
        "padded_to_plain": round(times.ratio("ours padded", "plain padded"), 3),
        "best_to_best": round(times.ratio(best, peer), 3),
    }


def peak_above(call: Callable[[], object]) -> float:
    """MiB by which resident memory rose at most during `call`, freed memory having been given back before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    call()
    return round((_status("VmHWM") - before) / 1024, 1)


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1])


def _short(value: float) -> float:
    return float(f"{value:.3g}")
