"""One real step: it is torch's, it goes where Γ says, and nothing is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradsift import ProjectionSpec
from gradsift.collector import GradientCollector, Moments
from gradsift.data import collate, encode_samples, read_samples
from gradsift.ops.gamma import apply_gamma
from gradsift.pipeline.one_step import OneStep, mean_losses
from gradsift.specs import Gamma

RATE = 1e-3
ROWS = [
    {"id": str(i), "messages": [{"role": "user", "content": "abc"[: i + 1]}, {"role": "assistant", "content": "z" * 5}]}
    for i in range(3)
]


@pytest.fixture(scope="module")
def at_checkpoint(tiny_model: Path) -> tuple[Any, Moments, Any]:
    """The tiny model with an adapter in which something has been learned, moments, encoded samples."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"])).eval()
    entries = {}
    collector = GradientCollector(model, ProjectionSpec(256), gamma="sgd")
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1)
    for name, shape in collector.parameters:
        entries[name] = torch.randn(shape) * 1e-2, torch.rand(shape) * 1e-4
    samples = read_samples(ROWS)
    encoded = encode_samples(samples, AutoTokenizer.from_pretrained(tiny_model), max_length=32)
    return model, Moments(entries, betas=(0.9, 0.99), eps=1e-8, step=3), encoded


def parameters_of(model: Any) -> list[Any]:
    return [p.detach().clone() for p in model.parameters()]


def changed(model: Any, before: list[Any]) -> int:
    import torch

    return sum(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_step_moves_every_parameter_by_the_rate_times_gamma(at_checkpoint: tuple[Any, Moments, Any]) -> None:
    model, moments, encoded = at_checkpoint
    step = OneStep(model, moments, RATE)
    _, gradients = step.gradients(encoded[0], 0)
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    gamma = Gamma.adam(*moments.betas, moments.eps, moments.step)
    with step.stepped(gradients):
        for name, g, p, q in zip(step.names, gradients, trained, before, strict=True):
            m, v = (x.double().numpy() for x in moments[name])
            want = -RATE * apply_gamma(gamma, g.astype(np.float64), m, v)
            moved = (p.detach().double() - q.double()).numpy()
            np.testing.assert_allclose(moved, want, atol=1e-7)  # a number of 1 is rounded to 6e-8


def test_the_gradient_is_the_one_that_is_sketched(at_checkpoint: tuple[Any, Moments, Any]) -> None:
    from gradsift.ops import project_rows

    model, moments, encoded = at_checkpoint
    spec = ProjectionSpec(256, seed=5)
    step = OneStep(model, moments, RATE)
    loss, gradients = step.gradients(encoded[1], 0)
    row = np.zeros((1, 256), np.float32)
    for name, g in zip(step.names, gradients, strict=True):
        project_rows(g[None], spec, param=name, out=row, accumulate=True)
    sketches = GradientCollector(model, spec, gamma="sgd").collect(collate([encoded[1]], pad_id=0))
    np.testing.assert_allclose(row, sketches.rows, rtol=0, atol=1e-5 * np.abs(row).max())
    assert loss == pytest.approx(float(sketches.loss[0]), rel=1e-5)


def test_nothing_is_left_of_a_step_or_a_jitter_to_the_bit(at_checkpoint: tuple[Any, Moments, Any]) -> None:
    model, moments, encoded = at_checkpoint
    step = OneStep(model, moments, RATE)
    before = parameters_of(model)
    digest = Moments(dict(moments), betas=moments.betas, eps=moments.eps, step=moments.step).digest
    _, gradients = step.gradients(encoded[0], 0)
    first = mean_losses(model, [[0, 1], [2]], encoded, 0)
    after = []
    for _ in range(2):
        with step.stepped(gradients):
            assert changed(model, before) == len(gradients)
            after.append(mean_losses(model, [[0, 1], [2]], encoded, 0))
        assert changed(model, before) == 0
    np.testing.assert_array_equal(after[0], after[1])
    assert (after[0] != first).all()
    with step.jittered(np.random.default_rng(0)):
        assert changed(model, before) == len(gradients)
    assert changed(model, before) == 0
    np.testing.assert_array_equal(mean_losses(model, [[0, 1], [2]], encoded, 0), first)
    assert all(p.grad is None for p in model.parameters())
    assert Moments(dict(moments), betas=moments.betas, eps=moments.eps, step=moments.step).digest == digest


def test_a_step_that_is_interrupted_is_taken_back_too(at_checkpoint: tuple[Any, Moments, Any]) -> None:
    model, moments, encoded = at_checkpoint
    step = OneStep(model, moments, RATE)
    before = parameters_of(model)
    _, gradients = step.gradients(encoded[0], 0)
    with pytest.raises(KeyboardInterrupt), step.stepped(gradients):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), step.stepped([g[:1] for g in gradients]):
        raise AssertionError("gradients of another shape were taken")
    assert changed(model, before) == 0


def test_weight_decay_is_torchs_and_none_by_default(at_checkpoint: tuple[Any, Moments, Any]) -> None:
    model, moments, encoded = at_checkpoint
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    _, gradients = OneStep(model, moments, RATE).gradients(encoded[0], 0)
    ends = []
    for options in ({}, {"weight_decay": 0.5}):
        with OneStep(model, moments, RATE, **options).stepped(gradients):
            ends.append([p.detach().clone() for p in trained])
    for plain, decayed, start in zip(*ends, before, strict=True):
        np.testing.assert_allclose((plain - decayed).numpy(), (RATE * 0.5 * start).numpy(), atol=1e-7)


def test_the_mean_loss_of_a_group_is_over_examples(at_checkpoint: tuple[Any, Moments, Any]) -> None:
    model, moments, encoded = at_checkpoint
    step = OneStep(model, moments, RATE)
    own = [step.gradients(sample, 0)[0] for sample in encoded]
    np.testing.assert_allclose(
        mean_losses(model, [[0, 2], [1]], encoded, 0), [(own[0] + own[2]) / 2, own[1]], rtol=1e-5
    )
