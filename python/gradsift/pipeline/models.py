"""Base model, tokenizer and adapters, through transformers and PEFT."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsift.errors import ConfigError, DependencyMissingError
from gradsift.pipeline.config import LoraConfig, ModelConfig

if TYPE_CHECKING:
    import torch

BUILT_IN = "smollm2-135m-instruct"


def require_hf(extra: str = "hf") -> None:
    """Raises with the line that installs what is missing for working with language models, by the name of the extra."""
    import importlib.util

    missing = [n for n in ("torch", "transformers", "peft", "accelerate") if importlib.util.find_spec(n) is None]
    if missing:
        raise DependencyMissingError(
            f'expected {", ".join(missing)} to be installed, got nothing; pip install "gradsift[{extra}]"'
        )


def quiet_libraries() -> None:
    """No progress bars or advice from below: our own progress and errors say what a user needs."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # oneDNN keeps 1024 compiled products by default, and every length of a batch asks for new ones: 300 MB more. Read
    # by oneDNN when it first multiplies.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    import transformers

    # Trainer and PEFT call names that transformers has deprecated; a user can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def model_folder(config: ModelConfig) -> str:
    """What to hand to ``from_pretrained``: a folder, a hub name, or where the built-in model was put."""
    if config.path == BUILT_IN:
        from gradsift.demo.model import ensure_smollm2

        return str(ensure_smollm2())
    looks_local = config.path.startswith(("/", ".", "~")) or config.path.count("/") > 1
    if looks_local and not Path(config.path).is_dir():
        raise ConfigError(
            f"model.path: expected a transformers folder or a hub name, got {config.path}: no such folder"
        )
    return config.path


def has_native_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware (elsewhere it is emulated, and slower than float32)."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    line = next((x for x in flags.splitlines() if x.startswith(("flags", "Features"))), "")
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(line.split()))


def resolve_dtype(config: ModelConfig) -> str:
    """``"float32"`` or ``"bfloat16"``: what ``dtype = "auto"`` means here."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if has_native_bfloat16() else "float32"


def device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(config: ModelConfig) -> Any:
    require_hf()
    quiet_libraries()
    from transformers import AutoTokenizer

    folder = model_folder(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path: expected a tokenizer at {folder}, got: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(config: ModelConfig) -> Any:
    """The base model in evaluation mode, in the dtype of the configuration, on the device there is."""
    require_hf()
    quiet_libraries()
    import torch
    from transformers import AutoModelForCausalLM

    folder = model_folder(config)
    dtype = getattr(torch, resolve_dtype(config))
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path: expected a causal language model at {folder}, got: {error}") from error
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and config.max_length > positions:
        raise ConfigError(
            f"model.max_length: expected at most the {positions} tokens this model has positions for, "
            f"got {config.max_length}"
        )
    return model.to(device()).eval()


def add_lora(model: Any, config: LoraConfig, seed: int) -> Any:
    """`model` with a fresh adapter, seeded; everything else frozen."""
    import peft
    import torch

    torch.manual_seed(seed)
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(
            f"lora.modules: expected names of layers of this model, got {config.modules}: {error}"
        ) from error


def load_adapter(model: Any, folder: Path) -> Any:
    """`model` with the adapter in `folder`, its parameters trainable."""
    import peft

    return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True)


def weights_digest(model: Any) -> str:
    """BLAKE2b-128 over name and bytes of every trainable parameter."""
    import torch

    from gradsift.naming import canonical_name

    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(canonical_name(name).encode() + b"\0")
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
