"""The figures of an evaluation, against the model's own loss and against answers planted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradsift.data import encode_samples, read_samples
from gradsift.pipeline.evaluate import answer_losses, exact_matches
from gradsift.pipeline.samples import Part


@pytest.fixture(scope="module")
def model_and_tokenizer(tiny_model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval(), AutoTokenizer.from_pretrained(tiny_model)


def part_of(tokenizer: Any, rows: list[dict[str, Any]]) -> Part:
    samples = read_samples(rows)
    return Part(samples, encode_samples(samples, tokenizer, max_length=64))


ROWS = [
    {"id": "a", "messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two three"}]},
    {"id": "b", "messages": [{"role": "user", "content": "a longer one"}, {"role": "assistant", "content": "x"}]},
    {
        "id": "c",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "ho"},
            {"role": "user", "content": "again"},
            {"role": "assistant", "content": "ho ho"},
        ],
    },
]


def test_losses_equal_the_models_own_one_sample_at_a_time(model_and_tokenizer: tuple[Any, Any]) -> None:
    import torch

    model, tokenizer = model_and_tokenizer
    part = part_of(tokenizer, ROWS)
    done: list[int] = []
    losses = answer_losses(model, part.encoded, tokenizer.pad_token_id, done.append)
    own = []
    for sample in part.encoded:
        ids, labels = (
            torch.as_tensor(np.asarray(x), dtype=torch.long)[None] for x in (sample.input_ids, sample.labels)
        )
        with torch.no_grad():
            own.append(float(model(input_ids=ids, labels=labels).loss))
    counts = np.array([s.label_tokens for s in part.encoded])
    assert losses["example_mean"] == pytest.approx(np.mean(own), rel=1e-5)
    assert losses["token_mean"] == pytest.approx(np.dot(own, counts) / counts.sum(), rel=1e-5)
    assert sum(done) == 3


class Parrot:
    """Stands in for a model: answers with the text that was planted for a prompt."""

    device = "cpu"

    def __init__(self, tokenizer: Any, answers: dict[str, str]) -> None:
        self.tokenizer, self.answers = tokenizer, answers
        self.prompts: list[str] = []

    def generate(self, input_ids: Any, attention_mask: Any, **kwargs: Any) -> Any:
        import torch

        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            prompt = self.tokenizer.decode(ids[mask.bool()])
            self.prompts.append(prompt)
            answer = self.tokenizer.encode(self.answers[prompt] + "<|end|>", add_special_tokens=False)
            rows.append(torch.tensor(answer))
        width = max(map(len, rows))
        tail = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        for i, row in enumerate(rows):
            tail[i, : len(row)] = row
        return torch.cat([input_ids, tail], dim=1)


def test_exact_match_asks_the_last_turn_and_takes_any_listed_answer(model_and_tokenizer: tuple[Any, Any]) -> None:
    _, tokenizer = model_and_tokenizer
    rows = [ROWS[0], {**ROWS[1], "answers": ["why", "zed"]}, ROWS[2]]
    part = part_of(tokenizer, rows)
    last = "<|user|>hi<|end|><|assistant|>ho<|end|><|user|>again<|end|><|assistant|>"
    parrot = Parrot(
        tokenizer,
        {
            "<|user|>one<|end|><|assistant|>": "two  three\n",
            "<|user|>a longer one<|end|><|assistant|>": "zed",
            last: "Ho ho",
        },
    )
    hits = exact_matches(parrot, tokenizer, part, max_new_tokens=9, advance=lambda n: None, batch_size=2)
    assert hits == [True, True, False], "white space is collapsed, any listed answer counts, case counts"
    assert last in parrot.prompts
