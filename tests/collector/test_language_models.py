"""Every sample of a batch gets the sketch it would get alone: language models of transformers."""

from __future__ import annotations

import copy
import functools
import logging
import re

import pytest
import torch
import transformers
from transformers.modeling_layers import GradientCheckpointingLayer

from gradsift.collector import GradientCollector
from gradsift.specs import GAMMA_KINDS


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_full_parameters_equal_batches_of_one(kind, attention, layout, make_model, samples, check):
    model = make_model(kind, attn_implementation=attention)
    check(model, samples, layout(samples))


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_lora_equals_batches_of_one(kind, layout, make_model, with_lora, samples, check):
    model = with_lora(make_model(kind))
    collector = check(model, samples, layout(samples))
    assert set(collector.report()["paths"]) == {"linear"}
    assert len(collector.parameters) == 2 * 4 * 2
    assert all("default" not in name and "base_model" not in name for name, _ in collector.parameters)


def test_lora_on_conv1d_equals_batches_of_one(layout, make_model, with_lora, samples, check):
    model = with_lora(make_model("gpt2"), target=("c_attn", "c_proj"), fan_in_fan_out=True)
    check(model, samples, layout(samples))


@pytest.mark.parametrize("kind", [k for k in GAMMA_KINDS if k != "sign"])
@pytest.mark.parametrize("model_kind", ["llama", "gpt2"])
def test_every_gamma_equals_batches_of_one(kind, model_kind, layout, make_model, samples, make_moments, check, spec):
    model = make_model(model_kind)
    moments = make_moments(GradientCollector(model, spec).parameters)
    check(model, samples, layout(samples), kind, moments)


@pytest.mark.parametrize("model_kind", ["llama", "gpt2"])
def test_signs_equal_batches_of_one(model_kind, layout, make_model, samples, check):
    # Of the last layer's MLP alone: elsewhere some gradients are zero but for rounding, and their signs are arbitrary.
    keep = r"layers\.1\.mlp" if model_kind == "llama" else r"h\.1\.mlp\.c_fc\.weight"
    # A rounding that turns one sign of 4,608 changes a vector of length √4608 by 2; two may turn.
    budget = 2 * 2 / 4608**0.5
    check(
        make_model(model_kind),
        samples,
        layout(samples),
        "sign",
        budget=budget,
        modules=keep,
        keep=lambda name: re.search(keep, name) is not None,
    )


def test_bfloat16_moments_are_read_as_they_are(make_model, samples, make_moments, batch_of, check, spec):
    model = make_model()
    moments = make_moments(GradientCollector(model, spec).parameters, dtype=torch.bfloat16)
    check(model, samples, batch_of["padded_right"](samples), "adam", moments)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("gamma", ["sgd", "adam"])
def test_tied_weights_are_one_parameter(kind, gamma, layout, make_model, samples, make_moments, check, spec):
    model = make_model(kind, tie_word_embeddings=True)
    moments = make_moments(GradientCollector(model, spec).parameters)
    collector = check(model, samples, layout(samples), gamma, moments if gamma == "adam" else None)
    tied = [n for n, s in collector.parameters if s == (100, 32)]
    assert collector.report()["paths"]["dense"] == tied
    assert len(tied) == 1


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradient_checkpointing_changes_nothing(kind, reentrant, lora, layout, make_model, with_lora, samples, check):
    base = make_model(kind)
    target = {"target": ("q_proj", "o_proj")} if kind == "llama" else {"target": ("c_attn",), "fan_in_fan_out": True}
    model = with_lora(base, **target) if lora else base
    without = copy.deepcopy(model)
    checkpointed = _checkpoint(base, reentrant)
    collector = check(model, samples, layout(samples), reference_model=without)
    assert sum(checkpointed) == 2, "the layers were not checkpointed"
    assert collector.report()["gradient_checkpointing"]


def _checkpoint(model, reentrant):
    """Switches checkpointing on; returns a list that grows by one a checkpointed layer call."""
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    calls = []
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False) and isinstance(module, GradientCheckpointingLayer):
            inner = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = functools.partial(_counting, calls, inner.func, **inner.keywords)
    return calls


def _counting(calls, checkpoint, *args, **kwargs):
    calls.append(1)
    return checkpoint(*args, **kwargs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_reentrant_checkpointing_needs_nothing_from_the_user(
    reentrant, make_model, with_lora, samples, batch_of, check
):
    base = make_model()
    model = with_lora(base)
    without = copy.deepcopy(model)
    _checkpoint(base, reentrant)
    base.disable_input_require_grads()
    check(model, samples, batch_of["padded_right"](samples), reference_model=without)


@pytest.mark.parametrize("layout_name", ["padded_right", "packed"])
def test_dropout_is_off_while_collecting_and_back_on_afterwards(
    layout_name, make_model, with_lora, samples, batch_of, check
):
    rates = {"embd_pdrop": 0.5, "attn_pdrop": 0.5, "resid_pdrop": 0.5}
    model = with_lora(make_model("gpt2", **rates), target=("c_attn",), fan_in_fan_out=True, lora_dropout=0.5)
    model.train()
    model.get_base_model().transformer.h[0].eval()
    modes = [m.training for m in model.modules()]
    collector = check(model, samples, batch_of[layout_name](samples))
    assert [m.training for m in model.modules()] == modes
    assert collector.report()["dropout"] == "off"
    assert collector.report()["dropout_modules"] > 0


def test_checkpointing_does_not_bring_functional_dropout_back(make_model, with_lora, samples, batch_of, check):
    # OPT's layers call dropout themselves, with their own `training`, which checkpointing needs to be true.
    config = transformers.OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=100,
        max_position_embeddings=64, word_embed_proj_dim=32, dropout=0.5, layerdrop=0.5, attention_dropout=0.5,
    )  # fmt: skip
    base = transformers.OPTForCausalLM(config).eval()
    model = with_lora(base)
    without = copy.deepcopy(model)
    checkpointed = _checkpoint(base, reentrant=False)
    layer = base.model.decoder.layers[0]
    check(model, samples, batch_of["padded_right"](samples), reference_model=without)
    assert sum(checkpointed) == 2
    assert layer.dropout == 0.5
    assert base.model.decoder.layerdrop == 0.5


@pytest.mark.parametrize("lora", [False, True])
def test_bfloat16_models_stay_within_the_bfloat16_budget(lora, layout, make_model, with_lora, samples, check):
    model = make_model()
    model = with_lora(model) if lora else model
    model = model.to(torch.bfloat16)
    # The yardstick is the same weights in float32: eight bits of mantissa through two layers.
    exact = copy.deepcopy(model).float()
    check(model, samples, layout(samples), reference_model=exact, budget=5e-2)


@pytest.mark.parametrize("layout_name", ["padded_right", "packed"])
def test_float32_adapters_on_a_bfloat16_base(layout_name, make_model, with_lora, samples, batch_of, check):
    model = with_lora(make_model().to(torch.bfloat16))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    check(model, samples, batch_of[layout_name](samples), reference_model=copy.deepcopy(model).float(), budget=5e-2)


@pytest.mark.parametrize("layout_name", ["padded_right", "packed"])
def test_autocast_equals_batches_of_one(layout_name, make_model, samples, batch_of, check):
    model = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check(model, samples, batch_of[layout_name](samples), reference_model=model, budget=5e-2)


def test_two_adapters_at_once_keep_their_names(layout, make_model, with_lora, samples, check):
    model = with_lora(make_model(), "first", "second")
    names = {raw: raw for raw, p in model.named_parameters() if p.requires_grad}
    for raw in names:
        bare = raw.removeprefix("base_model.model.")
        names[raw] = re.sub(r"\.(lora_[AB])\.(\w+)\.weight", r".\1[\2].weight", bare)
    collector = check(model, samples, layout(samples), names=names)
    assert len({name for name, _ in collector.parameters}) == 2 * 2 * 4 * 2


def test_dora_magnitudes_go_per_sample(make_model, with_lora, samples, batch_of, check, caplog):
    model = with_lora(make_model(), use_dora=True, target=("q_proj",))
    with caplog.at_level(logging.WARNING, "gradsift.collector"):
        collector = check(model, samples, batch_of["padded_right"](samples))
    magnitudes = [n for n, _ in collector.parameters if "magnitude" in n]
    assert collector.report()["paths"]["per_sample"] == magnitudes
    assert len(caplog.records) == len(magnitudes) == 2


def test_embeddings_with_a_padding_row_get_no_gradient_there(layout, make_model, samples, make_moments, check, spec):
    model = make_model("llama", pad_token_id=int(samples[0][0][2]))
    assert model.model.embed_tokens.padding_idx is not None
    moments = make_moments(GradientCollector(model, spec).parameters)
    check(model, samples, layout(samples), "less", moments)


def test_no_backward_below_the_lowest_trained_layer(make_model, with_lora, samples, batch_of, check, spec):
    model = with_lora(make_model(), layers_to_transform=[1])
    below, above = [], []
    layers = model.get_base_model().model.layers
    layers[0].register_forward_hook(lambda m, a, out: below.append(out.requires_grad))
    layers[1].register_forward_hook(lambda m, a, out: above.append(out.requires_grad))
    GradientCollector(model, spec, backend="reference").collect(batch_of["padded_right"](samples))
    assert below == [False]
    assert above == [True]
    check(model, samples, batch_of["packed"](samples))
