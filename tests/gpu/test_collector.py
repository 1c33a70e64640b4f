"""A model on a GPU gives the sketches that it gives on the CPU, and its hooks wait for nothing."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import transformers

from gradsift import Gamma, ProjectionSpec
from gradsift.collector import GradientCollector

pytestmark = pytest.mark.gpu

SPEC = ProjectionSpec(proj_dim=512, seed=11)
# Both sides round in float32, in orders of their own, in the model as in the kernels.
FLOAT32_BUDGET = 3e-5
LENGTHS = (9, 70, 33, 5, 128)


@pytest.fixture(autouse=True)
def _exact_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def llama(**settings):
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=300,
        max_position_embeddings=256,
        initializer_range=0.1,
        **settings,
    )
    return transformers.LlamaForCausalLM(config).eval()


def lora(model, rank=16):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=rank, lora_alpha=32, target_modules=["q_proj", "v_proj", "o_proj", "up_proj"])
    adapted = peft.get_peft_model(model, settings, autocast_adapter_dtype=False).eval()
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return adapted


def padded_batch(lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for b, n in enumerate(lengths):
        ids[b, :n] = torch.as_tensor(rng.integers(0, 300, n))
        mask[b, :n] = 1
        labels[b, n // 3 : n] = ids[b, n // 3 : n]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def moments_for(model):
    generator = torch.Generator().manual_seed(5)
    return {
        name: (
            0.02 * torch.randn(shape, generator=generator),
            0.02 * (0.1 + torch.rand(shape, generator=generator)) ** 2,
        )
        for name, shape in GradientCollector(model, SPEC).parameters
    }


def both(model, batch, **settings):
    """Sketches on the CPU and on the GPU."""
    on_cpu = GradientCollector(copy.deepcopy(model), SPEC, **settings).collect(batch)
    collector = GradientCollector(copy.deepcopy(model).cuda(), SPEC, **settings)
    return on_cpu, collector.collect(batch), collector


def check(got, want, budget):
    error = np.linalg.norm(got.rows - want.rows, axis=1) / np.linalg.norm(want.rows, axis=1)
    assert error.max() < budget, error
    np.testing.assert_allclose(got.grad_norm, want.grad_norm, rtol=budget)
    np.testing.assert_allclose(got.gamma_norm, want.gamma_norm, rtol=budget)
    np.testing.assert_allclose(got.loss, want.loss, rtol=budget)
    np.testing.assert_array_equal(got.tokens, want.tokens)


@pytest.mark.parametrize("gamma", [Gamma.sgd(), Gamma.adam(step=7), Gamma.less()], ids=lambda g: g.kind)
def test_lora_on_a_gpu_equals_the_cpu(gamma):
    model = lora(llama())
    moments = moments_for(model) if gamma.needs_moments else None
    want, got, collector = both(model, padded_batch(), gamma=gamma, moments=moments)
    check(got, want, FLOAT32_BUDGET)
    assert set(collector.report()["paths"]) == {"linear"}


@pytest.mark.parametrize("tied", [False, True])
def test_full_parameters_on_a_gpu_equal_the_cpu(tied):
    model = llama(tie_word_embeddings=tied)
    gamma = Gamma.adam(step=3)
    want, got, collector = both(model, padded_batch(), gamma=gamma, moments=moments_for(model))
    check(got, want, FLOAT32_BUDGET)
    assert {"linear", "rows"} <= set(collector.report()["paths"])


def test_a_sample_has_the_same_bits_again_and_about_the_same_in_another_batch():
    model = lora(llama()).cuda()
    collector = GradientCollector(model, SPEC)
    first, again = (collector.collect(padded_batch()).rows for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for b, n in enumerate(LENGTHS):
        alone = {k: v[b : b + 1, :n] for k, v in padded_batch().items()}
        row = collector.collect(alone).rows[0]
        assert np.linalg.norm(row - first[b]) < FLOAT32_BUDGET * np.linalg.norm(row)


def test_checkpointing_recomputes_the_same_sketches():
    model = lora(llama()).cuda()
    plain = GradientCollector(model, SPEC).collect(padded_batch())
    model.gradient_checkpointing_enable({"use_reentrant": False})
    collector = GradientCollector(model, SPEC)
    check(collector.collect(padded_batch()), plain, FLOAT32_BUDGET)
    assert collector.report()["gradient_checkpointing"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_stay_near_float32(dtype):
    model = lora(llama()).cuda()
    exact = GradientCollector(model, SPEC).collect(padded_batch())
    with torch.autocast("cuda", dtype=dtype):
        mixed = GradientCollector(model, SPEC).collect(padded_batch())
    halved = GradientCollector(copy.deepcopy(model).to(dtype), SPEC).collect(padded_batch())
    check(mixed, exact, 5e-2)
    check(halved, exact, 5e-2)


def test_samples_without_labels_are_zeros():
    batch = padded_batch()
    batch["labels"][1] = -100
    got = GradientCollector(lora(llama()).cuda(), SPEC).collect(batch)
    assert not got.rows[1].any()
    assert got.tokens[1] == 0
    assert np.isfinite(got.rows).all()


@contextmanager
def no_waiting():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_after_the_first_batch_forward_and_backward_wait_for_nothing():
    # eager attention: transformers' mask for its fused one reads whether there is padding
    model = lora(llama(attn_implementation="eager")).cuda()
    collector = GradientCollector(model, SPEC, gamma=Gamma.adam(step=2), moments=moments_for(model))
    batch = padded_batch()
    want = collector.collect(batch)
    with no_waiting():
        pending = collector.start(batch)
    np.testing.assert_array_equal(pending.result().rows, want.rows)


def test_work_goes_to_the_stream_of_the_caller():
    model = lora(llama()).cuda()
    collector = GradientCollector(model, SPEC)
    want = collector.collect(padded_batch())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        got = collector.start(padded_batch())
    np.testing.assert_array_equal(got.result().rows, want.rows)


def test_two_batches_may_be_on_their_way_at_once():
    model = lora(llama()).cuda()
    collector = GradientCollector(model, SPEC)
    batches = [padded_batch(seed=s) for s in range(4)]
    want = [collector.collect(b).rows for b in batches]
    pending = [collector.start(b) for b in batches]
    for p, w in zip(pending, want, strict=True):
        np.testing.assert_array_equal(p.result().rows, w)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_model_is_collected_through_its_adapters(bits, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    llama().save_pretrained(tmp_path)
    settings = transformers.BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings, device_map=0)
    model = lora(base)
    collector = GradientCollector(model, SPEC)
    batch = padded_batch()
    got = collector.collect(batch)
    assert set(collector.report()["paths"]) == {"linear"}
    for b, n in enumerate(LENGTHS):
        alone = collector.collect({k: v[b : b + 1, :n] for k, v in batch.items()})
        assert np.linalg.norm(alone.rows[0] - got.rows[b]) < 5e-2 * np.linalg.norm(got.rows[b])
