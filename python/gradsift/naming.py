"""One name for one parameter, however its model is wrapped.

Sketches of different parameters use different parts of the random matrix, chosen by name: a name that changed with
the wrapper would silently change the matrix.
"""

from __future__ import annotations

import hashlib
import re

# What wrappers put between the dots: DDP and DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPER_PARTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_flat_param"})
# PEFT keeps one entry an adapter below these; the adapter's name follows.
_ADAPTER_PARENTS = re.compile(
    r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|modules_to_save|ia3_l)\.([^.]+)(?=\.|$)"
)


def canonical_name(name: str) -> str:
    """The name `name` has in the bare model: without wrappers, PEFT's prefix and the adapter's name.

    ``base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight`` becomes
    ``model.layers.0.self_attn.q_proj.lora_A.weight``.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {type(name).__name__}")
    if not name:
        raise ValueError("name: expected a parameter's name, got an empty string")
    parts = [p for p in name.split(".") if p not in _WRAPPER_PARTS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    if parts[:2] == ["base_model", "model"] and len(parts) > 2:
        parts = parts[2:]
    while len(parts) > 1 and parts[0] == "module":  # PEFT around DDP
        parts = parts[1:]
    parts = [p for p in parts if p != "base_layer"]
    bare = ".".join(parts)
    # `lora_A.default.weight` loses `default`; `lora_embedding_A.default` is the parameter itself and loses it too.
    bare = _ADAPTER_PARENTS.sub(r".\1", "." + bare)[1:]
    return bare.replace(".modules_to_save.", ".").removesuffix(".modules_to_save")


def parameter_id(name: str) -> int:
    """``h``: BLAKE2b-64 of the canonical name in UTF-8, read little-endian (docs/projection-spec.md)."""
    return int.from_bytes(hashlib.blake2b(canonical_name(name).encode(), digest_size=8).digest(), "little")
