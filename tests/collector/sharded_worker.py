"""Run by test_sharded.py, once a rank: collects this rank's samples from a model that FSDP2 shards among the ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import peft
import torch
import torch.distributed as dist
import transformers
from torch.distributed.fsdp import fully_shard

from gradsift import Gamma, ProjectionSpec
from gradsift.collector import GradientCollector


def main(folder: Path, rank: int, ranks: int, lora: bool) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    try:
        inputs = torch.load(folder / "inputs.pt", weights_only=True)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**inputs["config"]))
        if lora:
            model = peft.get_peft_model(model, peft.LoraConfig(**inputs["lora"]))
        model.load_state_dict(inputs["weights"])
        model.eval()
        spec = ProjectionSpec(proj_dim=256, seed=11)
        base = model.get_base_model() if lora else model
        for layer in base.model.layers:
            fully_shard(layer)
        fully_shard(model)
        moments = {name: tuple(pair) for name, pair in inputs["moments"].items()}
        collector = GradientCollector(model, spec, gamma=Gamma.adam(step=3), moments=moments)
        for batch in inputs["batches"][rank::ranks]:
            sketches = collector.collect(batch)
        again = collector.collect(inputs["batches"][rank])
        np.savez(
            folder / f"rank{rank}.npz",
            rows=sketches.rows,
            again=again.rows,
            grad_norm=sketches.grad_norm,
            sharded=sum(type(p).__name__ == "DTensor" for p in model.parameters()),
            paths=np.array(sorted(collector.report()["paths"])),
        )
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "lora")
