"""canonical_name: one parameter, one name, however its model is wrapped."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.naming import canonical_name, parameter_id

LAYER = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("wrapped", "bare"),
    [
        (f"{LAYER}.weight", f"{LAYER}.weight"),
        (f"module.{LAYER}.weight", f"{LAYER}.weight"),
        (f"_orig_mod.module.{LAYER}.weight", f"{LAYER}.weight"),
        (f"module._orig_mod.{LAYER}.weight", f"{LAYER}.weight"),
        ("model.layers.0._orig_mod.mlp._checkpoint_wrapped_module.up.weight", "model.layers.0.mlp.up.weight"),
        ("_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module.mlp.up.weight", "model.layers.0.mlp.up.weight"),
        (f"base_model.model.{LAYER}.base_layer.weight", f"{LAYER}.weight"),
        (f"base_model.model.{LAYER}.lora_A.default.weight", f"{LAYER}.lora_A.weight"),
        (f"module.base_model.model.{LAYER}.lora_B.second.weight", f"{LAYER}.lora_B.weight"),
        (f"base_model.model.module.{LAYER}.lora_B.default.weight", f"{LAYER}.lora_B.weight"),
        (f"base_model.model.{LAYER}.lora_magnitude_vector.default.weight", f"{LAYER}.lora_magnitude_vector.weight"),
        ("base_model.model.model.embed_tokens.lora_embedding_A.default", "model.embed_tokens.lora_embedding_A"),
        ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
        ("base_model.model.score.modules_to_save.default.dense.bias", "score.dense.bias"),
        ("base_model.model.lm_head.original_module.weight", "lm_head.original_module.weight"),
        ("base_model.weight", "base_model.weight"),
        ("module", "module"),
    ],
)
def test_wrappers_leave_no_trace_in_the_name(wrapped, bare):
    assert canonical_name(wrapped) == bare


PARTS = ["module", "base_model", "model", "_orig_mod", "base_layer", "lora_A", "lora_embedding_B", "default", "weight"]


@given(st.lists(st.sampled_from([*PARTS, "modules_to_save", "layers", "0", "q_proj"]), max_size=7))
def test_a_canonical_name_is_its_own_canonical_name(parts):
    # As real names do, these end in a leaf, and below `lora_A` stands at most an adapter and the leaf.
    below = [i for i, p in enumerate(parts) if p.startswith("lora") or p == "modules_to_save"]
    if below:
        parts = [*parts[: below[0] + 1], "default"]
    once = canonical_name(".".join([*parts, "weight"]))
    assert canonical_name(once) == once


def test_parameter_id_is_the_digest_of_the_canonical_name_little_endian():
    digest = hashlib.blake2b(f"{LAYER}.lora_A.weight".encode(), digest_size=8).digest()
    want = sum(byte << (8 * i) for i, byte in enumerate(digest))
    assert parameter_id(f"{LAYER}.lora_A.weight") == want
    assert parameter_id(f"base_model.model.{LAYER}.lora_A.default.weight") == want


def test_names_that_differ_in_the_bare_model_stay_different():
    names = [f"model.layers.{i}.{m}.{p}" for i in range(3) for m in ("q_proj", "k_proj") for p in ("weight", "bias")]
    names += [f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight", "lm_head.weight", "layers.0._flat_param", "layers.0"]
    assert len({parameter_id(n) for n in names}) == len(names)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", ValueError, "name: expected a parameter's name, got an empty string"),
        ("_orig_mod", ValueError, "name: expected a parameter's name, got '_orig_mod', which names wrappers alone"),
        (None, TypeError, "name: expected a str, got NoneType"),
        (b"weight", TypeError, "name: expected a str, got bytes"),
    ],
)
def test_what_is_no_name_is_refused(name, error, message):
    with pytest.raises(error) as caught:
        canonical_name(name)
    assert str(caught.value) == message
