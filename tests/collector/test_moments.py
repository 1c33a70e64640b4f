"""Adam's moments out of real optimizer states, and every state that does not belong to the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from gradsift import ProjectionSpec, errors
from gradsift.collector import OPTIMIZER_NAMES, GradientCollector, Moments, load_moments
from gradsift.naming import canonical_name

BETAS, EPS, STEPS = (0.8, 0.95), 1e-7, 3


def _train(model, optimizer, samples, steps=STEPS):
    for i in range(steps):
        ids, labels = samples[i % len(samples)]
        optimizer.zero_grad()
        model(input_ids=ids[None], labels=labels[None]).loss.backward()
        optimizer.step()


def _by_trainer(model, folder):
    """The optimizer that transformers' Trainer makes for `model`, with its decay groups."""
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        weight_decay=0.1,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPS,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
    )
    return transformers.Trainer(model=model, args=arguments).create_optimizer()


@pytest.fixture
def trained(tmp_path, samples):
    """(model, optimizer) after a few steps, with ``optimizer.pt`` in `tmp_path`."""

    def train(model, make=_by_trainer):
        optimizer = make(model, tmp_path)
        _train(model, optimizer, samples)
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
        return model, optimizer

    return train


def _state(path):
    return torch.load(path / "optimizer.pt", weights_only=True)


def _check_against(moments, model, optimizer):
    names = {canonical_name(n) for n, p in model.named_parameters() if p.requires_grad}
    assert set(moments) == names
    for raw, p in model.named_parameters():
        if not p.requires_grad:
            continue
        name = canonical_name(raw)
        turned = type(model.get_submodule(raw.rpartition(".")[0])).__name__ == "Conv1D" and raw.endswith("weight")
        for got, key in zip(moments[name], ("exp_avg", "exp_avg_sq"), strict=True):
            want = optimizer.state[p][key]
            assert torch.equal(got, want.T if turned else want), name
            assert got.is_contiguous()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt2-lora", "llama-lora"])
def test_the_trainers_state_is_read_by_its_own_split(kind, trained, make_model, with_lora, tmp_path):
    model = make_model(kind.split("-")[0])
    if kind == "llama-lora":
        model = with_lora(model)
    elif kind == "gpt2-lora":
        model = with_lora(model, target=("c_attn",), fan_in_fan_out=True)
    model, optimizer = trained(model)
    assert [len(g["params"]) > 0 for g in optimizer.param_groups] == [True, "lora" not in kind]
    moments = load_moments(tmp_path, model)
    _check_against(moments, model, optimizer)
    assert (moments.betas, moments.eps, moments.step) == (BETAS, EPS, STEPS)


def test_a_step_of_adam_is_what_the_collector_says_it_is(make_model, with_lora, trained, samples, batch_of, tmp_path):
    # ‖Γ‖ of a sample is the length of the step that torch's optimizer takes on that sample alone, rate and decay apart.
    model, optimizer = trained(with_lora(make_model()))
    collector = GradientCollector(
        model, ProjectionSpec(256), "adam", load_moments(tmp_path, model), backend="reference"
    )
    sketches = collector.collect(batch_of["padded_right"](samples[:1]))
    rate = 1e-3
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = rate, 0.0
    before = [p.detach().double().clone() for p in model.parameters() if p.requires_grad]
    _train(model, optimizer, samples[:1], steps=1)
    after = [p.detach().double() for p in model.parameters() if p.requires_grad]
    length = sum(float(((a - b) / rate).square().sum()) for a, b in zip(after, before, strict=True)) ** 0.5
    # Parameters are float32: steps of 1e-3 on weights near 1 keep four digits.
    np.testing.assert_allclose(sketches.gamma_norm[0], length, rtol=1e-4)


def _plain(model, folder):
    return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=BETAS, eps=EPS)


def _with_decay_on_norms(model, folder):
    """The split of the Trainer before it knew norms by their names."""
    without = [p for n, p in model.named_parameters() if "bias" in n]
    decayed = [p for n, p in model.named_parameters() if "bias" not in n]
    groups = [{"params": decayed}, {"params": without, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=BETAS, eps=EPS)


def test_the_former_split_of_the_trainer_is_read_too(trained, make_model, tmp_path):
    model, optimizer = trained(make_model(attention_bias=True), _with_decay_on_norms)
    _check_against(load_moments(tmp_path, model), model, optimizer)


def _shuffled(model, folder):
    parameters = list(model.parameters())
    return torch.optim.AdamW(parameters[::-1], lr=1e-3, betas=BETAS, eps=EPS)


def _named(model, folder):
    return torch.optim.AdamW(list(model.named_parameters())[::-1], lr=1e-3, betas=BETAS, eps=EPS)


def test_one_group_is_read_in_model_order(trained, make_model, tmp_path):
    model, optimizer = trained(make_model(), _plain)
    _check_against(load_moments(tmp_path, model), model, optimizer)


def test_names_that_torch_saved_are_followed(trained, make_model, tmp_path):
    model, optimizer = trained(make_model(), _named)
    assert "param_names" in _state(tmp_path)["param_groups"][0]
    _check_against(load_moments(tmp_path, model), model, optimizer)


def test_names_beside_the_state_are_followed(trained, make_model, tmp_path):
    model, optimizer = trained(make_model(), _shuffled)
    names = {id(p): canonical_name(n) for n, p in model.named_parameters()}
    ordered = [names[id(p)] for g in optimizer.param_groups for p in g["params"]]
    (tmp_path / OPTIMIZER_NAMES).write_text(json.dumps(ordered))
    _check_against(load_moments(tmp_path, model), model, optimizer)


def test_another_order_of_the_parameters_is_refused_with_names_and_shapes(trained, make_model, tmp_path):
    model, _ = trained(make_model(), _shuffled)
    message = r"layers\.0\.self_attn\.q_proj\.weight: expected \(32, 32\), got exp_avg of shape \(32,\)"
    with pytest.raises(errors.MomentsError, match=message):
        load_moments(tmp_path, model)


def test_states_keyed_by_name_are_read(trained, make_model, with_lora, tmp_path):
    model, optimizer = trained(with_lora(make_model()))
    record = _state(tmp_path)
    raw = {id(p): n for n, p in model.named_parameters()}
    names = [raw[id(p)] for g in optimizer.param_groups for p in g["params"]]
    group = {**record["param_groups"][0], "params": names}
    by_name = {"state": {n: record["state"][i] for i, n in enumerate(names)}, "param_groups": [group]}
    (tmp_path / "optimizer.pt").unlink()
    torch.save(by_name, tmp_path / "optimizer.bin")
    _check_against(load_moments(tmp_path, model), model, optimizer)


def test_moments_of_a_larger_model_are_refused_with_both_shapes(trained, make_model, tmp_path):
    trained(make_model())
    other = make_model(hidden_size=64)
    with pytest.raises(
        errors.MomentsError, match=r"model\.embed_tokens\.weight: expected \(100, 64\), got .*\(100, 32\)"
    ):
        load_moments(tmp_path, other)


def test_moments_of_a_deeper_model_are_refused_with_both_counts(trained, make_model, tmp_path):
    trained(make_model())
    with pytest.raises(errors.MomentsError, match="30 parameters are trained, the state has 21"):
        load_moments(tmp_path, make_model(num_hidden_layers=3))


def test_moments_of_other_lora_targets_are_refused_with_the_names(trained, make_model, with_lora, tmp_path):
    model, _optimizer = trained(with_lora(make_model(), target=("q_proj", "v_proj")))
    names = [canonical_name(n) for n, p in model.named_parameters() if p.requires_grad]
    (tmp_path / OPTIMIZER_NAMES).write_text(json.dumps(names))
    other = with_lora(make_model(), target=("q_proj", "k_proj"))
    with pytest.raises(
        errors.MomentsError,
        match=r"none for model\.layers\.0\.self_attn\.k_proj\.lora_A\.weight.*some for .*v_proj.*does not train",
    ):
        load_moments(tmp_path, other)


def test_a_name_missing_beside_the_state_is_refused(trained, make_model, tmp_path):
    model, _ = trained(make_model())
    (tmp_path / OPTIMIZER_NAMES).write_text(json.dumps(["lm_head.weight"]))
    with pytest.raises(errors.MomentsError, match=f"expected 21 names in {OPTIMIZER_NAMES}, as the state has, got 1"):
        load_moments(tmp_path, model)


def _set(key, value, index=0):
    def change(record):
        record["state"][index][key] = value(record["state"][index][key]) if callable(value) else value

    return change


def _group(key, value, index=1):
    def change(record):
        record["param_groups"][index][key] = value

    return change


def _nan(tensor):
    tensor[0] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["state"].pop(2), "no state .it was never updated"),
        (lambda r: r["state"][1].pop("exp_avg"), r"\['exp_avg_sq', 'step'\], which is not Adam's state"),
        (_set("exp_avg", _nan), r"embed_tokens.weight: expected finite exp_avg, got \d+ NaN"),
        (_set("exp_avg_sq", lambda v: -v - 1), "embed_tokens.weight: expected exp_avg_sq of at least 0, got -1"),
        (_set("step", torch.tensor(7.0)), r"one step count .*got 3 for .* and 7 for model\.embed_tokens"),
        (_group("betas", (0.5, 0.9)), "same betas and eps in each group, got .*0.5"),
        (_group("eps", 1e-3), "same betas and eps in each group, got .*0.001"),
        (_group("amsgrad", True), "without amsgrad"),
        (lambda r: r["param_groups"][0].pop("betas"), "Adam's betas and eps in each group, got the keys"),
        (lambda r: r.pop("param_groups"), "expected 'param_groups'"),
        (lambda r: r.pop("state"), "expected a dict with 'state'"),
        (lambda r: [s["step"].zero_() for s in r["state"].values()], "step count of at least 1, got 0"),
        (_set("exp_avg", lambda m: m.half()), "float32 or bfloat16, got torch.float16"),
    ],
)
def test_a_broken_state_is_refused_by_name(change, message, trained, make_model, tmp_path):
    model, _ = trained(make_model())
    record = _state(tmp_path)
    change(record)
    torch.save(record, tmp_path / "optimizer.pt")
    with pytest.raises(errors.MomentsError, match=message):
        load_moments(tmp_path, model)


class _Payload:
    """What a pickle could run when it is read."""

    def __reduce__(self):
        return print, ("ran",)


def test_a_state_that_would_run_code_is_refused_and_does_not_run(trained, make_model, tmp_path, capsys):
    model, _ = trained(make_model())
    torch.save({"state": _Payload(), "param_groups": []}, tmp_path / "optimizer.pt")
    with pytest.raises(errors.MomentsError, match="expected an optimizer state of plain tensors"):
        load_moments(tmp_path, model)
    assert "ran" not in capsys.readouterr().out


def test_a_truncated_state_is_refused(trained, make_model, tmp_path):
    model, _ = trained(make_model())
    path = tmp_path / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(errors.MomentsError, match=r"optimizer\.pt: expected an optimizer state"):
        load_moments(tmp_path, model)


def test_a_folder_without_a_state_is_refused(make_model, tmp_path):
    with pytest.raises(errors.MomentsError, match=r"optimizer\.pt or optimizer\.bin, got none; .*save_only_model"):
        load_moments(tmp_path, make_model())


def test_the_digest_knows_every_number(make_moments):
    parameters = (("a", (3, 4)), ("b", (5,)))
    moments = make_moments(parameters)
    assert moments.digest == make_moments(parameters).digest
    numbers = {"betas": moments.betas, "eps": moments.eps, "step": moments.step}
    others = [
        Moments(moments, **{**numbers, "step": 6}),
        Moments(moments, **{**numbers, "eps": 1e-5}),
        Moments(moments, **{**numbers, "betas": (0.9, 0.98)}),
        Moments({**moments, "a": (moments["a"][0] + 1e-7, moments["a"][1])}, **numbers),
        Moments({"c": moments["a"], "b": moments["b"]}, **numbers),
        make_moments(parameters, dtype=torch.bfloat16),
    ]
    assert len({moments.digest, *(m.digest for m in others)}) == 7
    assert len(moments.digest) == 32
