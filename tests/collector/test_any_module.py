"""The same promise for any torch module through `loss_fn`: odd layers, repeated calls, unused and shared parameters."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradsift import Gamma, ProjectionSpec, errors
from gradsift.collector import GradientCollector

FEATURES = 6


def squared(model, batch):
    """Each sample's own loss."""
    return model(batch).square().flatten(1).mean(1)


def alone_loss(model, sample):
    return squared(model, sample[None])[0]


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(FEATURES, 8)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 3, bias=False)

    def forward(self, x):
        return self.last(self.norm(torch.tanh(self.first(x))))


class Twice(Plain):
    """One layer called twice in a forward, and one never."""

    def __init__(self):
        super().__init__()
        self.again = nn.Linear(8, 8)
        self.unused = nn.Linear(8, 5)
        self.table = nn.Embedding(7, 8)
        self.scale = nn.LayerNorm(8)

    def forward(self, x):
        h = self.scale(self.again(torch.tanh(self.first(x))))
        h = h + self.table((x[..., 0] > 0).long()) + self.table((x[..., 1] > 0).long())
        return self.last(self.norm(self.scale(self.again(h))))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv1d(1, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.two = nn.Conv1d(4, 2, 2, bias=False)
        self.norm = nn.GroupNorm(2, 2)

    def forward(self, x):
        x = x.flatten(1)
        return self.norm(self.two(self.relu(self.one(x[:, None]))))


class InPlace(nn.Module):
    """Changes the outputs of a linear layer and of a norm in place."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(FEATURES, 8)
        self.norm = nn.LayerNorm(8)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.relu(self.first(x))
        out = self.norm(h)
        out += 1
        return out


class OwnParameter(nn.Module):
    """A parameter at the root and one in a list, both used by the root's forward; a child of another kind below."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(FEATURES))
        self.scales = nn.ParameterList([torch.randn(FEATURES)])
        self.child = nn.Linear(FEATURES, 4)

    def forward(self, x):
        return self.child(torch.tanh(x * self.scales[0] + self.shift))


class OtherLinear(nn.Linear):
    """Called a linear layer, and computes something else."""

    def forward(self, x):
        return super().forward(x).square()


class Disguised(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = OtherLinear(FEATURES, 4)

    def forward(self, x):
        return self.layer(x)


class Attention(nn.Module):
    """torch's attention uses its output projection's weight without calling it."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(FEATURES, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class TiedTransposed(nn.Module):
    """One weight as a linear layer, and as the convolution-shaped layer of transformers, which keeps it transposed."""

    def __init__(self):
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.up = Conv1D(8, FEATURES)
        self.down = nn.Linear(8, FEATURES, bias=False)
        self.down.weight = self.up.weight

    def forward(self, x):
        return self.down(torch.tanh(self.up(x)))


class Checkpointed(Plain):
    """Not a transformers model: torch's checkpointing in both ways, with one layer used in two segments."""

    reentrant = False

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(8, 8)

    def _segment(self, h):
        return torch.tanh(self.shared(h))

    def forward(self, x):
        h = torch.tanh(self.first(x))
        for _ in range(2):
            h = checkpoint(self._segment, h, use_reentrant=self.reentrant)
        return self.last(self.norm(h))


MODELS = [Plain, Twice, Convolutions, InPlace, OwnParameter, Disguised, Attention, TiedTransposed, Checkpointed]


@pytest.fixture
def inputs():
    return torch.randn(4, 5, FEATURES)


@pytest.mark.parametrize("gamma", ["sgd", "adam"])
@pytest.mark.parametrize("kind", MODELS, ids=lambda k: k.__name__)
def test_every_module_equals_batches_of_one(kind, gamma, inputs, make_moments, check, spec):
    model = kind()
    moments = make_moments(GradientCollector(model, spec, loss_fn=squared).parameters)
    check(model, inputs, inputs, gamma, moments, loss_fn=squared, loss_of=alone_loss)


def test_reentrant_checkpointing_of_a_shared_layer_counts_each_call_once(inputs, check):
    model = Checkpointed()
    reference = copy.deepcopy(model)
    model.reentrant = True
    check(model, inputs, inputs, loss_fn=squared, loss_of=alone_loss, reference_model=reference)


def test_inputs_without_a_token_dimension(inputs, check):
    check(Plain(), inputs[:, 0], inputs[:, 0], loss_fn=squared, loss_of=alone_loss)


def test_unused_parameters_have_zero_gradient_and_still_move_with_momentum(inputs, spec, make_moments):
    model = Twice()
    settings = {"modules": "^unused", "loss_fn": squared, "backend": "reference"}
    collector = GradientCollector(model, spec, **settings)
    sketches = collector.collect(inputs)
    assert not sketches.rows.any()
    assert not sketches.grad_norm.any()
    assert collector.report()["paths"]["zero"] == ["unused.weight", "unused.bias"]
    moved = GradientCollector(model, spec, "adam", make_moments(collector.parameters), **settings).collect(inputs)
    assert (moved.gamma_norm > 0).all()
    assert not moved.grad_norm.any()


def test_the_report_names_what_goes_per_sample_and_the_log_says_it_once(inputs, spec, caplog):
    collector = GradientCollector(Convolutions(), spec, loss_fn=squared, backend="reference")
    with caplog.at_level(logging.WARNING, "gradsift.collector"):
        for _ in range(2):
            collector.collect(inputs)
    report = collector.report()
    assert report["paths"] == {"per_sample": ["one.weight", "one.bias", "two.weight", "norm.weight", "norm.bias"]}
    assert report["entries"] == {"per_sample": 4 * 3 + 4 + 2 * 4 * 2 + 2 + 2}
    assert (report["samples"], report["batches"]) == (8, 2)
    assert sum("module one (Conv1d)" in r.getMessage() for r in caplog.records) == 1


def test_a_layer_that_is_not_what_its_type_says_goes_per_sample(inputs, spec, caplog):
    collector = GradientCollector(Disguised(), spec, loss_fn=squared, backend="reference")
    with caplog.at_level(logging.WARNING, "gradsift.collector"):
        collector.collect(inputs)
    assert collector.report()["paths"] == {"per_sample": ["layer.weight", "layer.bias"]}
    assert "its output is not that of a plain linear" in caplog.text


def test_one_run_per_sample_serves_a_parameter_however_the_batch_is_split(inputs, spec):
    collector = GradientCollector(Convolutions(), spec, loss_fn=squared, backend="reference")
    whole = collector.collect(inputs)
    parts = [collector.collect(inputs[b : b + 1]) for b in range(len(inputs))]
    for b, part in enumerate(parts):
        np.testing.assert_allclose(part.rows[0], whole.rows[b], rtol=0, atol=1e-5 * np.abs(whole.rows[b]).max())


class MixesSamples(nn.Module):
    """Its per-sample part depends on the rest of the batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FEATURES))

    def forward(self, x):
        return (x - x.mean(0)) * self.weight


def test_a_module_that_mixes_samples_is_refused(inputs, spec):
    collector = GradientCollector(MixesSamples(), spec, loss_fn=squared, backend="reference")
    with pytest.raises(errors.CollectError, match=r"module model \(MixesSamples\).*not independent.*modules="):
        collector.collect(inputs)


class Shared(nn.Module):
    """Its input is the same for all samples: no dimension tells them apart."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, FEATURES)
        self.register_buffer("positions", torch.randn(9, FEATURES))

    def forward(self, x):
        return x * self.layer(self.positions).mean(0)


def test_a_layer_whose_input_has_no_sample_dimension_is_refused_by_name(inputs, spec):
    collector = GradientCollector(Shared(), spec, loss_fn=squared, backend="reference")
    with pytest.raises(errors.CollectError, match=r"module layer \(Linear\): expected .*\(4, …\).*\(9,\).*modules="):
        collector.collect(inputs)


class Elsewhere(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, FEATURES)

    def forward(self, x):
        return self.layer(x) @ self.layer.weight


def test_a_parameter_used_outside_its_module_is_refused_by_name(inputs, spec):
    collector = GradientCollector(Elsewhere(), spec, loss_fn=squared, backend="reference")
    with pytest.raises(errors.CollectError, match=r"layer\.weight: .*matmul.*missed"):
        collector.collect(inputs)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails, inputs, spec):
    model = Twice()
    model.train()
    model.norm.eval()
    model.last.weight.requires_grad_(False)
    model.first.weight.grad = torch.ones_like(model.first.weight)

    def failing(m, batch):
        m(batch)
        raise RuntimeError("in the middle")

    collector = GradientCollector(model, spec, loss_fn=failing if fails else squared, backend="reference")
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            collector.collect(inputs)
    else:
        collector.collect(inputs)
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["last.weight"]
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["first.weight"]
    assert (model.first.weight.grad == 1).all()
    assert [n for n, m in model.named_modules() if not m.training] == ["norm"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_gradients_are_collected_under_no_grad_and_inference_mode(inputs, spec):
    model = Plain()
    collector = GradientCollector(model, spec, loss_fn=squared, backend="reference")
    want = collector.collect(inputs).rows
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            np.testing.assert_array_equal(collector.collect(inputs).rows, want)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda m, b: 1.0, TypeError, r"loss_fn: expected to return a \(B,\) tensor, got float"),
        (lambda m, b: m(b).mean(), ValueError, r"loss_fn: expected .*one loss a sample.*got .*shape \(\)"),
    ],
)
def test_a_loss_that_is_not_one_number_a_sample_is_refused(returned, error, message, inputs, spec):
    with pytest.raises(error, match=message):
        GradientCollector(Plain(), spec, loss_fn=returned, backend="reference").collect(inputs)


def test_the_cpu_backend_agrees_with_the_reference(inputs, make_moments, relative):
    from gradsift import backends

    if "cpu" not in backends.available():
        pytest.skip("the native core is not built")
    model, spec = Twice(), ProjectionSpec(256)
    moments = make_moments(GradientCollector(model, spec, loss_fn=squared).parameters)
    rows = [
        GradientCollector(model, spec, Gamma.less(), moments, loss_fn=squared, backend=backend).collect(inputs)
        for backend in ("cpu", "reference")
    ]
    assert relative(rows[0].rows, rows[1].rows).max() < 1e-5
