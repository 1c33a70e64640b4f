"""One name for one parameter, however its model is wrapped.

Sketches of different parameters use different parts of the random matrix, chosen by name: a name that changed with
the wrapper would silently change the matrix.
"""

from __future__ import annotations

import functools
import hashlib
import re

# What wrappers put between the dots: torch.compile, FSDP, activation checkpointing; PEFT around the layer it adapts.
# FSDP's `_flat_param` is no such part: it is many parameters in one and has no name of its own to go back to.
_WRAPPER_PARTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"})
# DDP and DataParallel, PEFT: prefixes, repeated when wrappers are nested.
_WRAPPER_PREFIXES = (["module"], ["base_model", "model"])
# PEFT keeps one entry an adapter below these, `lora_A.<adapter>.weight` or `lora_embedding_A.<adapter>`. A `weight` or
# `bias` that ends the name is no adapter: a canonical name is left as it is.
_ADAPTER = re.compile(
    r"\.(lora_[ABE]|lora_embedding_[AB]|lora_magnitude_vector|modules_to_save|ia3_l|vera_lambda_[bd]|hada_[wt][12](?:_[ab])?"
    r"|lokr_[wt][12](?:_[ab])?|b?oft_[Rs]|trainable_tokens_delta)\.(?!(?:weight|bias)$)[^.]+(?=\.|$)"
)


def canonical_name(name: str) -> str:
    """The name `name` has in the bare model: without wrappers, PEFT's prefix and the adapter's name.

    ``base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight`` becomes
    ``model.layers.0.self_attn.q_proj.lora_A.weight``. A canonical name is its own canonical name.

    Raises
    ------
    TypeError
        `name` is not a str.
    ValueError
        `name` is empty or consists of wrappers alone.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {type(name).__name__}")
    if not name:
        raise ValueError("name: expected a parameter's name, got an empty string")
    parts = [p for p in name.split(".") if p not in _WRAPPER_PARTS]
    while prefix := next((p for p in _WRAPPER_PREFIXES if parts[: len(p)] == p and len(parts) > len(p)), None):
        parts = parts[len(prefix) :]
    # `modules_to_save` copies a whole module, which keeps the name of the one it stands for.
    bare = _ADAPTER.sub(lambda m: "" if m[1] == "modules_to_save" else f".{m[1]}", "." + ".".join(parts))[1:]
    if not bare:
        raise ValueError(f"name: expected a parameter's name, got {name!r}, which names wrappers alone")
    return bare


@functools.lru_cache(maxsize=1 << 16)
def parameter_id(name: str) -> int:
    """``h``: BLAKE2b-64 of the canonical name in UTF-8, read little-endian (docs/projection-spec.md)."""
    return int.from_bytes(hashlib.blake2b(canonical_name(name).encode(), digest_size=8).digest(), "little")
