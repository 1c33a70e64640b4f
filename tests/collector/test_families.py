"""Model families whose layers are named or shaped otherwise: scaled embeddings, norms of other forms, experts."""

from __future__ import annotations

import pytest
import transformers

COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def _build(name, **settings):
    config = getattr(transformers, f"{name}Config")(**COMMON | settings)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


# Gemma: embeddings scaled after the lookup, norms that keep weight − 1, tied weights. Qwen3: norms inside attention,
# over (B, T, heads, d). Mixtral: a router, and all experts in one three-dimensional parameter. Phi: biases everywhere.
# Each with what part of the names of parameters says that they go per sample.
FAMILIES = {
    "Gemma": ({"head_dim": 8, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0}, "embed_tokens"),
    "Qwen3": ({"head_dim": 8}, None),
    "Mixtral": ({"num_local_experts": 3, "num_experts_per_tok": 2}, ".mlp."),
    "Phi": ({}, None),
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_full_parameters_of_other_families_equal_batches_of_one(family, layout, samples, check):
    settings, per_sample = FAMILIES[family]
    collector = check(_build(family, **settings), samples, layout(samples))
    paths = collector.report()["paths"]
    names = [n for n, _ in collector.parameters]
    norms = [n for n in names if "norm" in n]
    assert norms
    assert set(norms) <= set(paths["rows"])
    assert paths.get("per_sample", []) == [n for n in names if per_sample and per_sample in n]


@pytest.mark.parametrize("layout_name", ["padded_left", "packed"])
def test_adapters_on_embeddings_and_saved_output_layers_equal_batches_of_one(
    layout_name, make_model, with_lora, samples, batch_of, check
):
    model = with_lora(make_model(), target=("embed_tokens", "q_proj"), modules_to_save=["lm_head"])
    collector = check(model, samples, batch_of[layout_name](samples))
    names = [n for n, _ in collector.parameters]
    assert "lm_head.weight" in names
    assert sorted(collector.report()["paths"]["per_sample"]) == sorted(n for n in names if "lora_embedding" in n)


@pytest.mark.parametrize("layout_name", ["padded_right", "packed"])
def test_adapters_on_the_output_layer_equal_batches_of_one(
    layout_name, make_model, with_lora, samples, batch_of, check
):
    model = with_lora(make_model(), target=("lm_head", "down_proj"))
    check(model, samples, batch_of[layout_name](samples))
