"""A language model of 30,000 weights with a tokenizer of its own, and data that it can learn in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``from_pretrained`` reads: Llama of width 32 with random weights, byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model") / "tiny"
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*special, *alphabet])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>", additional_special_tokens=special[2:]
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(name: str, number: int, question: str, answer: str) -> dict[str, object]:
    return {
        "id": f"{name}-{number}",
        "dataset": name,
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
    }


@pytest.fixture(scope="session")
def make_record(tiny_model: Path) -> Callable[[Path], dict[str, object]]:
    """A whole configuration in a folder: letters answered by capitals or by digits; the target wants digits."""
    return lambda folder: _record(tiny_model, folder)


@pytest.fixture
def record(make_record: Callable[[Path], dict[str, object]], tmp_path: Path) -> dict[str, object]:
    return make_record(tmp_path)


def _record(tiny_model: Path, folder: Path) -> dict[str, object]:
    letters = "abcdefghijklmnopqrst"
    digits = [chat("digits", i, c * 3, str(i % 10) * 4) for i, c in enumerate(letters)]
    capitals = [chat("capitals", i, c * 3, c.upper() * 4) for i, c in enumerate(letters)]
    write_jsonl(folder / "pool.jsonl", [*digits[:16], *capitals])
    write_jsonl(folder / "few.jsonl", [chat("few", i, c * 8, str(i) * 4) for i, c in enumerate("uvw")])
    write_jsonl(folder / "test.jsonl", [chat("test", i, c + "!", str(i) * 4) for i, c in enumerate("xyz")])
    return {
        "run_dir": str(folder / "run"),
        "model": {"path": str(tiny_model), "dtype": "float32", "max_length": 64},
        "pool": {"sources": [str(folder / "pool.jsonl")]},
        "targets": {"digits": {"sources": [str(folder / "few.jsonl")], "test": [str(folder / "test.jsonl")]}},
        "lora": {"r": 4, "alpha": 8.0},
        "warmup": {"fraction": 0.3, "epochs": 2, "batch_size": 4, "learning_rate": 0.01},
        "collect": {"proj_dim": 1024, "shard_rows": 8, "dtype": "float32", "max_tokens": 128},
        "select": {"fraction": 0.2},
        "train": {"epochs": 2, "seeds": [0, 1]},
        "evaluate": {"max_new_tokens": 6},
    }


@pytest.fixture(scope="session")
def as_toml() -> Callable[[dict[str, Any]], str]:
    """A configuration record as the text of its file."""

    def table(record: dict[str, Any], name: str = "") -> str:
        # Strings, numbers, booleans and lists read the same in JSON and in TOML.
        lines = [f"[{name}]"] if name else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in record.items() if not isinstance(value, dict)]
        parts = [table(v, f"{name}.{k}" if name else k) for k, v in record.items() if isinstance(v, dict)]
        return "\n".join([*lines, *parts]) + "\n"

    return table
