"""Unpack a GGUF file of SmolLM2 into a transformers folder: ``python -m gradsift.demo.convert GGUF OUTPUT_DIR``.

Runs as a process of its own, so that its 1.8 GiB go back when it is done and so that model hubs can be switched off
by the environment before anything reads it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def convert(gguf: Path, out: Path) -> None:
    """Write config, float32 safetensors weights, tokenizer and chat template of `gguf` to the folder `out`.

    The weights equal the unpacked GGUF bit for bit. Needs torch, transformers and gguf.
    """
    import torch
    import transformers
    from tokenizers import pre_tokenizers

    options: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # from 5.x the loader keeps weights packed unless told
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **options
    )
    # The loader marks the model as quantised, although its weights are plain by now, and would refuse to save it:
    # a model made from a clean config takes them over.
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "transformers_version", "dtype"):
        settings.pop(key, None)
    model = transformers.AutoModelForCausalLM.from_config(type(loaded.config)(**settings), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=2)

    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF only names the splitter ("smollm"), and the reader leaves it out: single digits, then byte-level BPE.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # transformers 4 reads these under other names; the loader's own notes are left out.
    rope_theta = settings.get("rope_theta") or settings["rope_parameters"]["rope_theta"]
    _rewrite(out / "config.json", {"rope_theta": rope_theta}, drop=("_model_name_or_path",))
    _rewrite(
        out / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192},
        drop=("backend", "is_local", "local_files_only"),
    )


def _rewrite(path: Path, changes: dict[str, Any], drop: tuple[str, ...]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in drop:
        content.pop(key, None)
    content.update(changes)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
