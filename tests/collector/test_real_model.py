"""SmolLM2-135M with LoRA against batches of one: what the tiny models show, shown once on a model people use."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import gradsift as gs
from gradsift.data import collate, encode_samples, read_samples
from gradsift.demo.skills import generate
from gradsift.naming import canonical_name


@pytest.fixture(scope="module")
def folder() -> str:
    path = os.environ.get("GRADSIFT_TEST_MODEL")
    if not path:
        pytest.skip("GRADSIFT_TEST_MODEL names no folder of SmolLM2-135M-Instruct")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_sketches_of_a_real_model_equal_batches_of_one(folder: str, layout: str) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model: Any = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        peft.LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
    )
    with torch.no_grad():  # B starts at zero, and then half of all gradients are zero
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    records = [generate(skill, 1, 0, "pool")[0] for skill in ("arithmetic", "commands", "sql")]
    encoded = encode_samples(read_samples(records), tokenizer, max_length=256)
    spec = gs.ProjectionSpec(proj_dim=8192)
    sketches = gs.GradientCollector(model, spec, gamma="sgd").collect(
        collate(list(encoded), pad_id=tokenizer.pad_token_id, layout=layout)
    )
    for i, sample in enumerate(encoded):
        model.zero_grad()
        ids, labels = (torch.as_tensor(x, dtype=torch.long)[None] for x in (sample.input_ids, sample.labels))
        loss = model.eval()(input_ids=ids, labels=labels).loss
        loss.backward()
        row = np.zeros((1, spec.proj_dim))
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                grad = parameter.grad[None].numpy()
                row += gs.ops.project_rows(grad, spec, param=canonical_name(name), backend="reference")
        assert np.linalg.norm(sketches.rows[i] - row) / np.linalg.norm(row) < 5e-6  # docs/collector.md, float32
        assert sketches.loss[i] == pytest.approx(loss.item(), rel=1e-5)
        assert sketches.tokens[i] == sample.label_tokens
