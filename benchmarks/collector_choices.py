"""The figures behind the collector's choices (docs/collector.md): SmolLM2-135M-Instruct, adapters as PEFT loads them.

    python benchmarks/collector_choices.py cost --model FOLDER [--rank 16] [--dtype bfloat16] [--full] [--layers 30]
    python benchmarks/collector_choices.py tokens --model FOLDER [--rank 16] [--dtype bfloat16] [--layers 30]
    python benchmarks/collector_choices.py precision --model FOLDER
    python benchmarks/collector_choices.py memory --model FOLDER [--layers 2] [--batches 121] [--trim-every 15]

One thread, CPU time, best of the rounds, in turn. Fewer layers (the first ones) make a run short; the output layer's
share is then larger than in the whole model.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradsift as gs
import language_model
from gradsift.collector import GradientCollector
from gradsift.data import EncodedSample, batches_by_length, collate
from language_model import moments_of

SPEC = gs.ProjectionSpec(8192, seed=1)


def load(args: argparse.Namespace) -> Any:
    model = language_model.load_model(args.model, getattr(torch, args.dtype))
    model.model.layers = model.model.layers[: args.layers]
    model.config.num_hidden_layers = len(model.model.layers)
    if args.full:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("_proj" in name)
        return model
    import peft

    torch.manual_seed(0)
    modules = list(language_model.LORA_MODULES)
    settings = peft.LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=modules, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return model


def batches(chosen: list[EncodedSample], max_tokens: int, layout: str) -> list[dict[str, torch.Tensor]]:
    groups = batches_by_length([len(s) for s in chosen], max_tokens, layout)
    return [collate([chosen[i] for i in group], pad_id=0, layout=layout) for group in groups]


def best_of(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds of CPU time of each way, taken in turn after one round that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: min(times[1:]) for name, times in taken.items()}


def plain(model: Any, batch: dict[str, torch.Tensor]) -> None:
    model(**batch, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)


def plain_at_labels(model: Any, batch: dict[str, torch.Tensor]) -> None:
    """The plain pass with logits at label positions only."""
    bare = getattr(model, "get_base_model", lambda: model)()
    labels = batch["labels"][:, 1:].reshape(-1)
    hidden = bare.model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)[0][:, :-1]
    at = (labels != -100).nonzero()[:, 0]
    logits = bare.lm_head(hidden.reshape(-1, hidden.shape[-1])[at])
    torch.nn.functional.cross_entropy(logits.float(), labels[at]).backward()
    model.zero_grad(set_to_none=True)


def cost(args: argparse.Namespace) -> None:
    model, chosen = load(args), language_model.samples(args.samples, args.data, args.model)
    padded, packed = (batches(chosen, 1024, layout) for layout in ("padded", "packed"))
    collector = GradientCollector(model, SPEC, "adam", moments_of(model))
    ways: dict[str, Callable[[], None]] = {
        "plain, padded": lambda: [plain(model, b) for b in padded] and None,
        "plain, padded, logits at labels only": lambda: [plain_at_labels(model, b) for b in padded] and None,
        "collect, padded": lambda: [collector.collect(b) for b in padded] and None,
        "collect, packed": lambda: [collector.collect(b) for b in packed] and None,
    }
    taken = best_of(ways, args.rounds)
    tokens, labels = sum(map(len, chosen)), sum(s.label_tokens for s in chosen)
    print(f"{len(chosen)} samples, {tokens} tokens, {labels} labels; {collector.precision}")
    for name, seconds in taken.items():
        ratio = seconds / taken["plain, padded"]
        print(f"{name:38} {seconds / len(chosen) * 1e3:7.0f} ms a sample  {ratio:.2f}")


def tokens(args: argparse.Namespace) -> None:
    model, chosen = load(args), language_model.samples(32, args.data, args.model)
    collector = GradientCollector(model, SPEC, "adam", moments_of(model))
    plans = {str(most): batches(chosen, most, "packed") for most in (256, 512, 1024, 2048, 4096)}
    ways = {most: (lambda p=plan: [collector.collect(b) for b in p] and None) for most, plan in plans.items()}
    for most, seconds in best_of(ways, args.rounds).items():
        print(f"{most:>5} tokens a batch: {len(plans[most]):3} batches, {seconds:.2f} s")


def precision(args: argparse.Namespace) -> None:
    """How far sketches are from those of float64 autograd, sample by sample."""
    args.dtype = "float32"
    model = load(args)
    chosen = sorted(language_model.samples(2 * args.samples, args.data, args.model), key=len)[: args.samples]

    def autograd(of: Any, batch: dict[str, torch.Tensor]) -> np.ndarray:
        of(**batch, use_cache=False).loss.backward()
        row = np.zeros((1, SPEC.proj_dim))
        for name, parameter in of.named_parameters():
            if parameter.grad is not None:
                grad = parameter.grad[None].float().numpy()
                row += gs.ops.project_rows(grad, SPEC, param=gs.canonical_name(name), backend="cpu")
        of.zero_grad(set_to_none=True)
        return row[0]

    exact_model = copy.deepcopy(model).double()
    off: dict[str, list[float]] = {}
    for one in chosen:
        batch = collate([one], pad_id=0)
        exact = autograd(exact_model, batch)
        for setting in ("highest", "medium"):
            torch.set_float32_matmul_precision(setting)
            collector = GradientCollector(model, SPEC, float32_matmul="unchanged")
            for name, row in (("autograd", autograd(model, batch)), ("collect", collector.collect(batch).rows[0])):
                error = np.linalg.norm(row.astype(np.float64) - exact) / np.linalg.norm(exact)
                off.setdefault(f"{name}, {setting}", []).append(float(error))
        torch.set_float32_matmul_precision("highest")
        print(len(one), "tokens:", "; ".join(f"{name} {errors[-1]:.2e}" for name, errors in off.items()), flush=True)
    for name, errors in off.items():
        print(f"{name:18} median {np.median(errors):.2e}, largest {max(errors):.2e}")


def memory(args: argparse.Namespace) -> None:
    """Resident memory over batches of ever other lengths; ONEDNN_PRIMITIVE_CACHE_CAPACITY as it is set outside."""
    collector = GradientCollector(load(args), SPEC)
    trim = ctypes.CDLL(None).malloc_trim
    rng = np.random.default_rng(0)

    def say(when: str) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {
            line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.startswith(("VmRSS", "VmH"))
        }
        print(f"{when}: {found['VmRSS']} MiB, at most {found['VmHWM']}", flush=True)

    for i in range(args.batches):
        lengths = rng.integers(20, 250, 4)
        made = []
        for n in lengths:
            ids = rng.integers(0, 1000, n).astype(np.int32)
            labels = np.where((rng.random(n) < 0.3) & (np.arange(n) > 0), ids, -100).astype(np.int32)
            made.append(EncodedSample("", ids, labels, False, int((labels != -100).sum())))
        collector.collect(collate(made, pad_id=0))
        if i % 15 == 0:
            say(f"batch {i}")
        if args.trim_every and i % args.trim_every == 0:
            trim(0)
            say("trimmed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = {"cost": cost, "tokens": tokens, "precision": precision, "memory": memory}
    parser.add_argument("what", choices=ways)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--full", action="store_true", help="train every linear layer instead of adapters")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=121)
    parser.add_argument("--trim-every", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways[args.what](args)


if __name__ == "__main__":
    main()
