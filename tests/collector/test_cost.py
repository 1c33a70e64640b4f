"""What collecting leaves out, measures and bounds: work, padding, time, precision, bytes."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from gradsift.collector import Clock, GradientCollector, attention, is_out_of_memory, memory, precision  # noqa: E402
from gradsift.errors import CollectError, DeviceMemoryError  # noqa: E402


class _Products(TorchDispatchMode):
    """The shapes of every matrix product while a flag is up."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.seen.append(tuple(tuple(a.shape) for a in args if isinstance(a, torch.Tensor)))
        return func(*args, **(kwargs or {}))


def _backward_products(model, batch, spec, **settings):
    """Matrix products of the backward alone, in the second batch (the first also checks)."""
    collector = GradientCollector(model, spec, backend="reference", **settings)
    collector.collect(batch)
    counter = _Products()
    original = torch.Tensor.backward

    def counted(self, *args, **kwargs):
        with counter:
            return original(self, *args, **kwargs)

    torch.Tensor.backward = counted
    try:
        collector.collect(batch)
    finally:
        torch.Tensor.backward = original
    return counter.seen


def test_no_backward_runs_below_the_lowest_trained_layer(make_model, samples, batch_of, spec):
    model = make_model(num_hidden_layers=4)
    model.requires_grad_(False)
    model.model.layers[2].mlp.down_proj.weight.requires_grad_(True)
    seen = _backward_products(model, batch_of["packed"](samples), spec)
    # Output layer, and one layer's seven input gradients; nothing of layer 2 itself lies above its last product.
    assert len(seen) == 1 + 7
    model.model.layers[3].mlp.down_proj.weight.requires_grad_(True)
    assert len(_backward_products(model, batch_of["packed"](samples), spec)) == 1 + 7


def test_the_first_layers_input_gradient_is_not_computed(make_model, with_lora, samples, batch_of, spec):
    model = with_lora(make_model())
    packed = batch_of["packed"](samples)
    N = packed["input_ids"].shape[1]
    seen = _backward_products(model, packed, spec)
    # Per layer: q, k, v, o through base, A and B, and three of the MLP. In the first layer q, k and v end at their B.
    assert len(seen) == 1 + (4 * 3 + 3) + (3 * 1 + 3 + 3)
    assert all(shapes[0][0] == N for shapes in seen[1:]), "no product forms a weight's gradient"


def test_logits_are_formed_at_label_positions_only(make_model, samples, batch_of, spec):
    model = make_model()
    rows = []
    handle = model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
    sketches = GradientCollector(model, spec, backend="reference", modules="q_proj").collect(
        batch_of["padded_right"](samples)
    )
    handle.remove()
    assert rows == [sketches.tokens.sum()]


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_few_labels_are_as_exact_as_many(make_model, with_lora, samples, batch_of, check, labels):
    """A vocabulary as large as real ones, weights whose mean is not zero: up to three rows MKL adds up one by one."""
    model = make_model(vocab_size=49152)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    model = with_lora(model)
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    ids, targets = samples[2]
    targets = torch.where(torch.arange(len(ids)) < len(ids) - labels, -100, ids)
    for make in batch_of.values():
        check(model, [(ids, targets)], make([(ids, targets)]))


@pytest.mark.parametrize("labels", [1, 3, 7, 8, 9])
def test_the_output_layer_multiplies_eight_rows_at_least(make_model, samples, layout, spec, labels):
    model = make_model()
    rows = []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
    ids, _ = samples[2]
    targets = torch.where(torch.arange(len(ids)) < len(ids) - labels, -100, ids)
    got = GradientCollector(model, spec, backend="reference", modules="q_proj").collect(layout([(ids, targets)]))
    assert rows == [max(labels, 8)]
    assert got.tokens.tolist() == [labels]


def test_the_rows_that_fill_up_go_with_the_last_sample_that_has_labels(make_model, samples, layout, check):
    """Trained output layer: it sees the repeats, and samples without labels stay without gradient."""
    none = torch.full_like(samples[1][1], -100)
    one = torch.where(torch.arange(len(samples[0][0])) == 4, samples[0][0], -100)
    batch = [(samples[0][0], one), (samples[2][0], torch.where(torch.arange(12) > 9, samples[2][0], -100))]
    model = make_model(tie_word_embeddings=False)
    collector = check(model, batch, layout(batch), keep=lambda name: "lm_head" in name, modules="lm_head")
    got = collector.collect(layout([*batch, (samples[1][0], none)]))
    assert not got.rows[2].any()
    assert got.tokens.tolist() == [1, 2, 0]


def test_packed_samples_attend_apart_at_the_sum_of_their_squares(make_model, samples, batch_of, spec, monkeypatch):
    model = make_model()
    queries = []
    original = torch.nn.functional.scaled_dot_product_attention

    def counted(query, *args, **kwargs):
        queries.append(query.shape[2])
        return original(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    collector = GradientCollector(model, spec, backend="reference", modules="q_proj")
    assert collector.prefers_packed
    collector.collect(batch_of["packed"](samples))
    queries.clear()
    collector.collect(batch_of["packed"](samples))
    assert queries == [len(ids) for ids, _ in samples] * 2  # layers
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("kind", "settings"), [("llama", {"attention_dropout": 0.5}), ("mistral", {}), ("gpt2", {})], ids=str
)
def test_attention_apart_equals_the_models_own(make_model, samples, batch_of, spec, relative, kind, settings):
    model = make_model(kind, **settings)
    own = GradientCollector(model, spec, backend="reference")
    own._forward.apart.refuse()
    collector = GradientCollector(model, spec, backend="reference")
    batch = batch_of["packed"](samples)
    got = collector.collect(batch)
    assert collector.prefers_packed
    assert relative(got.rows, own.collect(batch).rows).max() < 1e-5


def test_attention_that_is_another_is_left_to_the_model(make_model, samples, batch_of, spec, relative, monkeypatch):
    model = make_model()
    want = GradientCollector(model, spec, backend="reference").collect(batch_of["padded_right"](samples))
    original = attention._attend
    monkeypatch.setattr(attention, "_attend", lambda *a, **k: (2 * original(*a, **k)[0], None))
    collector = GradientCollector(model, spec, backend="reference")
    got = collector.collect(batch_of["packed"](samples))
    assert not collector.prefers_packed
    assert relative(got.rows, want.rows).max() < 1e-5


def test_attention_with_what_ours_lacks_is_left_to_the_model(make_model, samples, batch_of, spec, monkeypatch):
    model = make_model()
    original = attention._attend
    monkeypatch.setattr(attention, "_attend", lambda *a, **k: original(*a, **k, s_aux=torch.zeros(1)))
    collector = GradientCollector(model, spec, backend="reference")
    assert np.isfinite(collector.collect(batch_of["packed"](samples)).rows).all()
    assert not collector.prefers_packed


def test_a_window_that_is_in_the_mask_alone_is_left_to_the_model(samples, batch_of, spec, relative):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2}
    sizes |= {"shared_expert_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "vocab_size": 100}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    config = transformers.Qwen2MoeConfig(**sizes, use_sliding_window=True, sliding_window=4, max_window_layers=2)
    model = transformers.Qwen2MoeForCausalLM(config).eval()
    short = [(ids[:4], labels[:4]) for ids, labels in samples]
    chosen = {"backend": "reference", "modules": "o_proj"}
    want = GradientCollector(model, spec, **chosen).collect(batch_of["padded_right"](samples))
    collector = GradientCollector(model, spec, **chosen)
    collector.collect(batch_of["packed"](short))
    assert not collector.prefers_packed
    assert relative(collector.collect(batch_of["packed"](samples)).rows, want.rows).max() < 1e-5


def test_a_model_that_was_refused_packed_batches_is_refused_them_again(make_model, samples, batch_of, spec):
    model = make_model()
    mixed = model.model.layers[0].register_forward_hook(lambda module, args, output: output + output.mean(1, True))
    collector = GradientCollector(model, spec, backend="reference", modules="lm_head|layers.1.*o_proj")
    for _ in range(2):
        with pytest.raises(CollectError, match="attention does not cross the samples"):
            collector.collect(batch_of["packed"](samples))
    mixed.remove()


def test_trying_a_packed_batch_counts_nowhere(make_model, samples, batch_of, spec):
    collector = GradientCollector(make_model(), spec, backend="reference", modules="q_proj")
    collector.try_packed(batch_of["packed"](samples))
    assert collector.prefers_packed
    assert (collector.report()["samples"], collector.report()["batches"]) == (0, 0)


@pytest.mark.parametrize(
    "change", [{"attn_logit_softcapping": 30.0}, {"attention_chunk_size": 8}, {"layer_types": ["chunked_attention"]}]
)
def test_models_of_other_attention_do_not_prefer_packed_batches(make_model, spec, change):
    model = make_model()
    for name, value in change.items():
        setattr(model.config, name, value)
    assert not GradientCollector(model, spec, backend="reference").prefers_packed


def test_a_profile_sums_to_the_time_of_collecting(make_model, samples, layout, spec, monkeypatch):
    collector = GradientCollector(make_model(), spec, backend="reference", modules="q_proj", profile=True)
    collector.collect(layout(samples))
    before = collector.report()["time"]["total_seconds"]
    readings = []

    def read():
        readings.append(1.0 + 1.5 * len(readings))
        return readings[-1]

    monkeypatch.setattr("gradsift.collector.clock.time.perf_counter", read)
    collector.collect(layout(samples))
    report = collector.report()["time"]
    assert report["total_seconds"] - before == pytest.approx(readings[-1] - readings[0])
    assert sum(part["share"] for part in report["parts"].values()) == pytest.approx(1)
    assert all(report["parts"][name]["seconds"] > 0 for name in ("forward", "backward", "kernels", "other"))


def test_what_an_inner_part_takes_is_not_the_outer_ones(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr("gradsift.collector.clock.time.perf_counter", lambda: next(now))
    synchronised = []
    clock = Clock(synchronize=lambda: synchronised.append(1))
    with clock.part("backward"), clock.part("kernels"):
        pass
    assert clock.seconds["backward"] == 5.0
    assert clock.seconds["kernels"] == 2.0
    assert len(synchronised) == 4
    assert clock.table().splitlines()[0].split() == ["backward", "5.00", "s", "71.4%"]
    with pytest.raises(ValueError, match="name: expected one of"):
        clock.part("lunch")


def test_kernels_are_not_counted_as_backward(make_model, samples, batch_of, spec, monkeypatch):
    from gradsift.collector.sketching import Projector

    original = Projector.add
    monkeypatch.setattr(Projector, "add", lambda *a: (time.sleep(0.02), original(*a))[1])
    collector = GradientCollector(make_model(), spec, backend="reference", modules="q_proj", profile=True)
    collector.collect(batch_of["packed"](samples))
    before = collector.report()["time"]["parts"]
    collector.collect(batch_of["packed"](samples))
    after = collector.report()["time"]["parts"]
    assert after["kernels"]["seconds"] - before["kernels"]["seconds"] >= 0.04


def test_without_a_profile_no_time_is_reported(make_model, samples, layout, spec):
    collector = GradientCollector(make_model(), spec, backend="reference")
    collector.collect(layout(samples))
    assert "time" not in collector.report()


def test_the_precision_is_reported_and_torchs_setting_restored(make_model, samples, layout, spec, monkeypatch):
    monkeypatch.setattr(precision, "matmul_error", lambda setting: 3e-7)
    model = make_model()
    during = []
    model.lm_head.register_forward_hook(lambda *a: during.append(torch.get_float32_matmul_precision()))
    collector = GradientCollector(model, spec, backend="reference", modules="q_proj")
    collector.collect(layout(samples))
    assert set(during) == {"medium"}
    assert torch.get_float32_matmul_precision() == "highest"
    assert collector.report()["precision"] == {
        "parameters": "float32",
        "float32_matmul": "medium",
        "why": "oneDNN, off by 3.0e-07 on this CPU, the default by 3.0e-07",
    }


@pytest.mark.parametrize("error", [5.7e-7, 3e-4, 2e-3])
def test_a_faster_setting_that_is_less_accurate_than_the_default_is_not_taken(error, monkeypatch):
    errors = {"highest": 2.6e-7, "medium": error}
    monkeypatch.setattr(precision, "matmul_error", errors.get)
    chosen = precision.choose_float32_matmul(torch.device("cpu"))
    assert chosen.setting == "highest"
    assert chosen.why == f'"medium" is off by {error:.1e} on this CPU, the default by 2.6e-07'


def test_what_the_user_set_and_gpus_are_left_alone(monkeypatch):
    monkeypatch.setattr(precision, "matmul_error", lambda setting: 0.0)
    assert precision.choose_float32_matmul(torch.device("cuda")).setting == "highest"
    assert precision.choose_float32_matmul(torch.device("cpu"), "unchanged").setting == "highest"
    torch.set_float32_matmul_precision("high")
    try:
        assert precision.choose_float32_matmul(torch.device("cpu")).setting == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    with pytest.raises(ValueError, match="float32_matmul: expected"):
        precision.choose_float32_matmul(torch.device("cpu"), "fast")


def test_the_measured_error_of_a_setting_is_that_of_its_products():
    assert 0 < precision.matmul_error("highest") < 2e-6


def test_the_measured_error_is_of_float32_whatever_the_surroundings():
    measure = precision.matmul_error.__wrapped__
    want = measure("highest")
    with torch.autocast("cpu"):
        assert measure("highest") == want
    torch.set_default_dtype(torch.float64)
    try:
        assert measure("highest") == want
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_was_set_by_torchs_newer_interface_is_left_alone():
    code = """
import torch
torch.backends.mkldnn.matmul.fp32_precision = "bf16"
from gradsift.collector import precision
for choice in ("auto", "unchanged"):
    chosen = precision.choose_float32_matmul(torch.device("cpu"), choice)
    with chosen.set():
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    print(chosen.setting)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("\n") == ["by backend", "by backend", ""]


def test_saved_bytes_are_each_storage_once_and_not_the_models():
    layer = torch.nn.Linear(8, 4)
    x = torch.randn(16, 8, requires_grad=True)
    counter = memory.SavedBytes(layer)
    with counter.counted():
        y = layer(x)
        z = (y * y).sum() + (y * y).sum()
    assert counter.peak == 16 * 8 * 4 + 16 * 4 * 4
    z.backward()
    z = layer(x[:2]).sum()
    assert counter.peak == 16 * 8 * 4 + 16 * 4 * 4


def test_bytes_a_token_follow_the_model_and_leave_the_report_alone(make_model, samples, batch_of, spec):
    small, large = (
        GradientCollector(make_model(num_hidden_layers=n), spec, backend="reference", modules="q_proj") for n in (1, 4)
    )
    batch = batch_of["packed"](samples[2:])
    logits = memory.LOGIT_BYTES * 100
    assert 2 < (large.bytes_per_token(batch) - logits) / (small.bytes_per_token(batch) - logits) < 4.5
    assert large.report()["samples"] == 0


def test_bytes_a_token_are_asked_of_language_models_only(spec):
    model = torch.nn.Linear(2, 1)
    collector = GradientCollector(model, spec, backend="reference", loss_fn=lambda model, x: model(x)[:, 0])
    with pytest.raises(ValueError, match="expected a collector of the language-model loss"):
        collector.bytes_per_token(torch.zeros(1, 2))


def test_memory_limits_of_control_groups_are_read(tmp_path):
    assert memory.group_bytes(tmp_path) is None
    for name, text in (("max", "1000"), ("current", "700"), ("stat", "anon 1\ninactive_file 200\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.group_bytes(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.group_bytes(tmp_path) is None
    old = tmp_path / "memory"
    old.mkdir()
    for name, text in (("limit_in_bytes", "900"), ("usage_in_bytes", "100"), ("stat", "total_inactive_file 50\n")):
        (old / f"memory.{name}").write_text(text)
    assert memory.group_bytes(tmp_path) == 850
    assert memory.available_bytes(torch.device("cpu")) > 0


def test_a_machine_that_does_not_say_its_memory_is_told_what_to_set(monkeypatch):
    monkeypatch.setattr(memory, "_machine_bytes", lambda: None)
    monkeypatch.setattr(memory, "group_bytes", lambda: None)
    with pytest.raises(CollectError, match=r"set collect\.memory_limit_gib"):
        memory.available_bytes(torch.device("cpu"))


def test_running_out_of_memory_is_told_from_other_failures():
    class Impossible(torch.nn.Module):
        def forward(self):
            return torch.empty(2**60)

    with pytest.raises(RuntimeError) as caught:
        Impossible()()
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.cuda.OutOfMemoryError())
    assert is_out_of_memory(DeviceMemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_collecting_goes_on_as_before_after_it_ran_out_of_memory(make_model, samples, layout, spec):
    model = make_model()
    want = GradientCollector(model, spec, backend="reference").collect(layout(samples))
    collector = GradientCollector(model, spec, backend="reference")

    def fail(grad):
        raise MemoryError

    def on_output(module, args, output):
        if output.requires_grad:
            output.register_hook(fail)

    handle = model.model.layers[0].mlp.register_forward_hook(on_output)
    with pytest.raises(MemoryError):
        collector.collect(layout(samples))
    handle.remove()
    np.testing.assert_array_equal(collector.collect(layout(samples)).rows, want.rows)


def _peak_of_allocations(work):
    """Bytes of tensors alive at the most during `work`, above those before, by the profiler's record of allocations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_memory_above_the_plain_pass_does_not_grow_with_batch_times_parameters(spec):
    # One wide layer: the batch's gradients would be 64 × 256 KB; its inputs and output gradients are 64 × 2 × 1 KB.
    def model_and_batch(B):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Tanh(), torch.nn.Linear(256, 1))
        return model, torch.randn(B, 256)

    def loss_fn(model, x):
        return model(x)[:, 0]

    above = {}
    for B in (4, 64):
        model, x = model_and_batch(B)
        collector = GradientCollector(model, spec, loss_fn=loss_fn)
        collector.collect(x)
        plain = _peak_of_allocations(lambda m=model, x=x: loss_fn(m, x).sum().backward())
        above[B] = _peak_of_allocations(lambda c=collector, x=x: c.collect(x)) - plain
    gradients = 60 * sum(p.numel() for p in model.parameters()) * 4
    assert above[64] - above[4] < gradients / 50
