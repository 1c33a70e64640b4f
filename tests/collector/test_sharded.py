"""A model that FSDP2 shards gives each rank the sketches of its samples that the whole model gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gradsift as gs
from gradsift import Gamma
from gradsift.collector import GradientCollector

pytestmark = pytest.mark.slow

RANKS = 2
# As the fixture `with_lora` makes them.
LORA = {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "task_type": "CAUSAL_LM"}
FLOAT32_BUDGET = 5e-6


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_each_rank_collects_its_own_samples_from_a_sharded_model(
    kind, tmp_path, make_model, with_lora, make_moments, batch_of, samples, spec, relative
):
    model = make_model(attn_implementation="eager")
    model = with_lora(model) if kind == "lora" else model
    moments = make_moments(GradientCollector(model, spec).parameters)
    # Ranks meet in every forward: as many batches for each, of whatever length.
    batches = [batch_of["padded_right"](samples[b : b + 2]) for b in range(RANKS)]
    record = {
        "config": json.loads(model.config.to_json_string()),
        "lora": LORA,
        "weights": model.state_dict(),
        "batches": batches,
        "moments": dict(moments),
    }
    torch.save(record, tmp_path / "inputs.pt")
    whole = GradientCollector(model, spec, gamma=Gamma.adam(step=3), moments=dict(moments))
    want = [whole.collect(batch) for batch in batches]
    worker = Path(__file__).with_name("sharded_worker.py")
    environment = {"PYTHONPATH": str(Path(gs.__file__).parents[1]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, worker, tmp_path, str(rank), str(RANKS), kind],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * RANKS, "\n".join(said)
    for rank in range(RANKS):
        found = np.load(tmp_path / f"rank{rank}.npz")
        assert found["sharded"] > 0, "nothing was sharded"
        assert relative(found["rows"], want[rank].rows).max() < FLOAT32_BUDGET
        np.testing.assert_allclose(found["grad_norm"], want[rank].grad_norm, rtol=FLOAT32_BUDGET)
        np.testing.assert_array_equal(found["again"], found["rows"])
        assert "per_sample" not in found["paths"]
