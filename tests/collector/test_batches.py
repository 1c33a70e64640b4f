"""Batches at the edge, and wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradsift import Gamma, errors
from gradsift.collector import GradientCollector


@pytest.fixture
def collector(make_model, with_lora, spec):
    return GradientCollector(with_lora(make_model()), spec, backend="reference")


def _without_labels(samples):
    ids, labels = samples[1]
    return [samples[0], (ids, torch.full_like(labels, -100)), samples[2]]


def test_a_sample_without_labels_is_zeros_and_leaves_the_others_alone(collector, samples, layout):
    whole = collector.collect(layout(samples))
    got = collector.collect(layout(_without_labels(samples)))
    assert got.tokens.tolist() == [8, 0, 9]
    assert not got.rows[1].any()
    assert (got.loss[1], got.grad_norm[1], got.gamma_norm[1]) == (0, 0, 0)
    for b in (0, 2):
        np.testing.assert_allclose(got.rows[b], whole.rows[b], rtol=0, atol=1e-5 * np.abs(whole.rows[b]).max())


def test_a_sample_without_labels_is_zeros_even_with_momentum(make_model, samples, layout, make_moments, spec):
    model = make_model()
    moments = make_moments(GradientCollector(model, spec).parameters)
    got = GradientCollector(model, spec, "adam", moments, backend="reference").collect(layout(_without_labels(samples)))
    assert not got.rows[1].any()
    assert got.gamma_norm[1] == 0
    assert (got.gamma_norm[[0, 2]] > 0).all()


def test_a_batch_without_any_label_is_zeros(collector, samples, layout):
    got = collector.collect(layout([_without_labels(samples)[1]] * 2))
    assert got.rows.shape == (2, 256)
    assert not got.rows.any()
    assert got.tokens.tolist() == [0, 0]
    assert got.loss.dtype == np.float32


def test_the_first_token_of_a_sample_is_never_predicted(collector, samples, layout):
    labelled = [(ids, ids.clone()) for ids, _ in samples]
    got = collector.collect(layout(labelled))
    assert got.tokens.tolist() == [len(ids) - 1 for ids, _ in samples]
    first_masked = [(ids, torch.cat([ids.new_tensor([-100]), ids[1:]])) for ids, _ in samples]
    np.testing.assert_array_equal(got.rows, collector.collect(layout(first_masked)).rows)


def test_samples_of_one_token_have_nothing_to_predict(collector, samples, layout):
    one = samples[0][0][:1]
    got = collector.collect(layout([(one, one.clone()), samples[2]]))
    assert got.tokens.tolist() == [0, 9]
    assert not got.rows[0].any()


def test_rows_do_not_depend_on_order_or_company(collector, samples, layout, relative):
    want = collector.collect(layout(samples)).rows
    turned = collector.collect(layout(samples[::-1])).rows[::-1]
    apart = np.concatenate([collector.collect(layout(samples[b : b + 1])).rows for b in range(3)])
    assert relative(turned, want).max() < 1e-5
    assert relative(apart, want).max() < 1e-5


def test_padded_and_packed_batches_give_the_same_rows(collector, samples, batch_of, relative):
    rows = [collector.collect(make(samples)).rows for make in batch_of.values()]
    assert relative(rows[1], rows[0]).max() < 1e-5
    assert relative(rows[2], rows[0]).max() < 1e-5


def test_a_sample_that_is_not_finite_is_kept_as_it_comes(make_model, samples, batch_of, spec):
    model = make_model()
    rare = 99
    samples = [(torch.where(ids == rare, 0, ids), labels) for ids, labels in samples]
    samples[0][0][0] = rare
    with torch.no_grad():
        model.model.embed_tokens.weight[rare] = float("nan")
    collector = GradientCollector(model, spec, modules="mlp", backend="reference")
    got = collector.collect(batch_of["padded_right"](samples))
    assert np.isnan(got.loss[0])
    assert np.isnan(got.rows[0]).all()
    assert np.isfinite(got.rows[1:]).all()
    assert np.isfinite(got.loss[1:]).all()


class _Leaky(torch.nn.Module):
    """Adds something of all tokens to a layer's output, as attention without borders would."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        out = self.inner(*args, **kwargs)
        return out + 0.05 * out.cumsum(1)


def test_a_model_that_attends_across_packed_samples_is_refused(make_model, samples, batch_of, spec):
    model = make_model()
    model.model.layers[0].mlp = _Leaky(model.model.layers[0].mlp)
    collector = GradientCollector(model, spec, backend="reference")
    with pytest.raises(errors.CollectError, match=r"attention does not cross the samples.*padded"):
        collector.collect(batch_of["packed"](samples))


def test_a_model_that_does_not_mask_padding_is_refused(make_model, samples, batch_of, spec):
    model = make_model()
    model.model.layers[0].mlp = _Leaky(model.model.layers[0].mlp)
    collector = GradientCollector(model, spec, backend="reference")
    with pytest.raises(errors.CollectError, match=r"no gradient at padding tokens.*does not mask padding"):
        collector.collect(batch_of["padded_left"](samples))


def test_a_packed_batch_for_a_model_without_positions_is_refused(samples, batch_of, spec):
    transformers = pytest.importorskip("transformers")
    config = transformers.BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=100)
    collector = GradientCollector(transformers.BloomForCausalLM(config), spec, backend="reference")
    with pytest.raises(ValueError, match="padded batch, since this model takes no position_ids"):
        collector.collect(batch_of["packed"](samples))


def _change(**changes):
    def change(batch):
        out = dict(batch)
        for key, value in changes.items():
            if value is None:
                del out[key]
            else:
                out[key] = value(batch[key]) if callable(value) and key in batch else value
        return out

    return change


@pytest.mark.parametrize(
    ("layout_name", "change", "error", "message"),
    [
        ("padded_right", _change(labels=None), ValueError, r"expected the keys .* got no \['labels'\]"),
        ("padded_right", _change(pixels=torch.ones(1)), ValueError, r"got also \['pixels'\]; .*loss_fn"),
        ("packed", _change(position_ids=None), ValueError, r"got no \['position_ids'\]"),
        ("padded_right", _change(labels=lambda x: x[:, 1:]), ValueError, r"labels.*expected shape \(3, 12\), got"),
        ("padded_right", _change(input_ids=lambda x: x[0]), ValueError, r"input_ids.*expected shape \(B, T\)"),
        ("padded_right", _change(input_ids=lambda x: x.float()), TypeError, r"input_ids.*integers, got torch.float32"),
        ("padded_right", _change(input_ids=lambda x: x.tolist()), TypeError, r"input_ids.*a torch tensor, got list"),
        ("padded_right", _change(input_ids=lambda x: x.to("meta")), ValueError, r"input_ids.*on cpu.*got meta"),
        ("padded_right", _change(labels=lambda x: x.clamp(max=-1)), ValueError, r"labels.*token ids or -100, got -1"),
        ("padded_right", _change(labels=lambda x: x + 200 * (x > 0)), ValueError, r"labels.*below 100, got 2"),
        ("padded_right", _change(labels=lambda x: x.clamp(min=0)), ValueError, r"labels.*-100 wherever attention_mask"),
        (
            "padded_left",
            _change(attention_mask=lambda x: x * (torch.arange(12) != 10), labels=lambda x: x.clamp(max=-100)),
            ValueError,
            "attention_mask.*side by side, got a hole",
        ),
        ("packed", _change(position_ids=lambda x: x + 1), ValueError, r"position_ids.*0, 1, 2.*within each sample"),
        ("packed", _change(cu_seqlens=torch.tensor([0, 30])), ValueError, r"cu_seqlens.*rise from 0 to 26"),
        ("packed", _change(cu_seqlens=torch.tensor([0.0, 26])), ValueError, r"cu_seqlens.*integers"),
        ("packed", _change(input_ids=lambda x: x.view(2, 13), labels=lambda x: x.view(2, 13)), ValueError, r"\(1, N\)"),
    ],
)
def test_a_wrong_batch_is_refused_by_name(layout_name, change, error, message, collector, samples, batch_of):
    with pytest.raises(error, match=message):
        collector.collect(change(batch_of[layout_name](samples)))


def test_a_batch_that_is_no_mapping_is_refused(collector, samples):
    with pytest.raises(TypeError, match="batch: expected a mapping of tensors, got list"):
        collector.collect(samples)


def test_arguments_are_checked_by_name(make_model, spec, make_moments):
    model = make_model()
    frozen = make_model().requires_grad_(False)
    moments = make_moments(GradientCollector(model, spec).parameters)
    cases = [
        (lambda: GradientCollector("model", spec), TypeError, "model: expected a torch.nn.Module, got str"),
        (lambda: GradientCollector(model, 256), TypeError, "spec: expected a ProjectionSpec, got int"),
        (lambda: GradientCollector(frozen, spec), ValueError, "model: expected parameters with requires_grad"),
        (lambda: GradientCollector(model.model, spec), ValueError, "loss_fn: expected a function, since LlamaModel"),
        (lambda: GradientCollector(model, spec, "adamw"), ValueError, "gamma: expected .*'sgd'.*got 'adamw'"),
        (lambda: GradientCollector(model, spec, 3), TypeError, "gamma: expected .* got int"),
        (lambda: GradientCollector(model, spec, "adam"), ValueError, "moments: expected Moments.*load_moments"),
        (lambda: GradientCollector(model, spec, "less"), ValueError, "moments: expected a mapping.*got NoneType"),
        (lambda: GradientCollector(model, spec, modules="nowhere"), ValueError, "modules: .*at least one.*got none"),
        (lambda: GradientCollector(model, spec, modules="("), ValueError, "modules: expected a regular expression"),
        (lambda: GradientCollector(model, spec, modules=["a.b"]), ValueError, r"modules: .*got \['a.b'\]"),
        (lambda: GradientCollector(model, spec, backend="gpu"), ValueError, "backend: .*'gpu'"),
    ]
    for make, error, message in cases:
        with pytest.raises(error, match=message):
            make()
    without = {name: moments[name] for name in moments if name != "lm_head.weight"}
    with pytest.raises(errors.MomentsError, match=r"got none for lm_head\.weight;"):
        GradientCollector(model, spec, Gamma.less(), without)
    turned = dict(moments) | {"lm_head.weight": tuple(x.T for x in moments["lm_head.weight"])}
    with pytest.raises(errors.MomentsError, match=r"lm_head\.weight \(32, 100\) instead of \(100, 32\)"):
        GradientCollector(model, spec, Gamma.less(), turned)


def test_modules_choose_parameters_by_pattern_names_or_function(make_model, spec):
    model = make_model()
    names = [n for n, _ in GradientCollector(model, spec).parameters]
    norms = [n for n in names if "norm" in n]
    for modules in ("norm", norms, set(norms), lambda name: "norm" in name):
        assert [n for n, _ in GradientCollector(model, spec, modules=modules).parameters] == norms
    assert len(norms) == 5


def test_chosen_parameters_get_the_gradients_they_have_among_all(make_model, samples, layout, check):
    check(make_model(), samples, layout(samples), modules=r"layers\.0.*mlp", keep=lambda n: "layers.0.mlp" in n)


def test_shapes_are_those_of_the_matrix_that_is_projected(make_model, spec):
    shapes = dict(GradientCollector(make_model("gpt2"), spec).parameters)
    assert shapes["transformer.h.0.attn.c_attn.weight"] == (96, 32)
    assert shapes["transformer.h.0.attn.c_attn.bias"] == (96,)
    assert shapes["transformer.wte.weight"] == (100, 32)
    assert "lm_head.weight" not in shapes
