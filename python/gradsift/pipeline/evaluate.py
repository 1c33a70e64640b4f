"""Answer-token loss and exact match on the targets' test sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradsift.data import EncodedSample, EncodedSet, Sample, batches_by_length, collate
from gradsift.pipeline.models import load_adapter, load_base
from gradsift.pipeline.progress import Advance
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import read_json, write_json
from gradsift.pipeline.samples import Part
from gradsift.pipeline.train import Training, settings, train
from gradsift.specs import digest_of

if TYPE_CHECKING:
    import torch

IGNORED = -100  # the label that the loss skips, everywhere in transformers


def evaluate(run: Run) -> dict[str, dict[str, Any]]:
    """Figures of the base model and of every trained one, by model and target; kept, and not measured twice."""
    everything = train(run)
    tests = run.tests
    if not tests:
        run.reporter.say("evaluate: no target has a test set (targets.NAME.test); nothing to measure")
        return {}
    figures = {"base": _measure(run, "base", tests, None)}
    for training in everything:
        mine = {name: tests[name] for name in training.targets if name in tests}
        name = training.directory.name
        figures[name] = _measure(run, name, mine, training)
    return figures


def _measure(run: Run, name: str, tests: dict[str, Part], training: Training | None) -> dict[str, Any]:
    path = run.directory.evaluation(name)
    wanted = {
        "model": run.model_settings,
        "training": None if training is None else settings(run, training),
        "evaluate": run.config.evaluate.model_dump(),
        "tests": {
            target: [part.encoded.digest, digest_of([list(_answers(s)) for s in part.samples])]
            for target, part in tests.items()
        },
    }
    if path.is_file():
        record = read_json(path)
        if record["settings"] == wanted:
            return dict(record["targets"])
        run.reporter.say(f"evaluate {name}: again, since settings changed")
    model = load_base(run.config.model)
    if training is not None:
        model = load_adapter(model, training.directory).eval()
    targets: dict[str, Any] = {}
    passes = 2 if run.config.evaluate.exact_match else 1
    with run.reporter.task(f"evaluate {name}", passes * sum(map(len, tests.values())), "examples") as advance:
        for target, part in tests.items():
            losses = answer_losses(model, part.encoded, run.tokenizer.pad_token_id, advance)
            targets[target] = {"examples": len(part), "loss": losses["token_mean"], **losses}
            if run.config.evaluate.exact_match:
                hits = exact_matches(
                    model, run.tokenizer, part, max_new_tokens=run.config.evaluate.max_new_tokens, advance=advance
                )
                # A reference that was cut at max_length is not one that an answer can equal.
                whole = [hit for hit, sample in zip(hits, part.encoded, strict=True) if not sample.truncated]
                targets[target]["exact_match_examples"] = len(whole)
                if whole:
                    targets[target]["exact_match"] = float(np.mean(whole))
    write_json(path, {"settings": wanted, "targets": targets})
    return targets


def answer_losses(model: Any, encoded: EncodedSet, pad_id: int, advance: Advance) -> dict[str, float]:
    """Mean cross-entropy in nats over all answer tokens, and over examples of each example's own mean."""
    total = summed_losses(model, encoded, pad_id, advance)
    tokens = np.array([e.label_tokens for e in encoded])
    return {"token_mean": float(total.sum() / tokens.sum()), "example_mean": float((total / tokens).mean())}


def summed_losses(model: Any, encoded: Sequence[EncodedSample], pad_id: int, advance: Advance) -> np.ndarray:
    """Cross-entropy in nats over each example's answer tokens, (N,) float64; the same batches at every call."""
    import torch

    total = np.zeros(len(encoded))
    for batch in batches_by_length([len(e.input_ids) for e in encoded], max_tokens=2048):
        with torch.inference_mode():
            losses = batch_losses(model, [encoded[i] for i in batch], pad_id)
        total[np.asarray(batch)] = losses.numpy()
        advance(len(batch))
    return total


def batch_losses(model: Any, samples: Sequence[EncodedSample], pad_id: int) -> torch.Tensor:
    """Cross-entropy in nats over the answer tokens of each of the B samples, (B,) float64 on the CPU."""
    import torch

    tensors = {k: v.to(model.device) for k, v in collate(samples, pad_id=pad_id).items()}
    labels = tensors.pop("labels")[:, 1:]
    logits = model(**tensors, use_cache=False).logits[:, :-1]
    keep = labels != IGNORED
    nll = torch.nn.functional.cross_entropy(logits[keep].float(), labels[keep], reduction="none")
    rows = keep.nonzero()[:, 0]
    return torch.zeros(len(samples), dtype=torch.float64).index_add(0, rows.cpu(), nll.double().cpu())


def exact_matches(
    model: Any, tokenizer: Any, part: Part, *, max_new_tokens: int, advance: Advance, batch_size: int = 16
) -> list[bool]:
    """Whether greedy decoding of the last turn gives the reference, or one of the sample's ``answers``.

    Compared after collapsing white space; case counts.
    """
    import torch

    prompts = [_prompt(e) for e in part.encoded]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    hits = [False] * len(prompts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(prompts[i]) for i in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):  # padded on the left: generation goes on at the right edge
            ids[row, width - len(prompts[i]) :] = torch.as_tensor(prompts[i])
            mask[row, width - len(prompts[i]) :] = 1
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            hits[i] = _squeeze(text) in {_squeeze(a) for a in _answers(part.samples[i])}
        advance(len(batch))
    return hits


def _prompt(sample: EncodedSample) -> np.ndarray:
    """Tokens up to the last answer: what the model sees before it has to speak."""
    labelled = np.flatnonzero(np.asarray(sample.labels) != IGNORED)
    last = int(labelled[-1])
    while last - 1 in labelled:
        last -= 1
    return np.asarray(sample.input_ids[:last])


def _answers(sample: Sample) -> Sequence[str]:
    listed = sample.record.get("answers")
    last = next(m["content"] for m in reversed(sample.messages) if m["role"] == "assistant")
    return [last, *map(str, listed)] if isinstance(listed, list) else [last]


def _squeeze(text: str) -> str:
    return " ".join(text.split())
