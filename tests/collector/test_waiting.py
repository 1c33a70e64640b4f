"""Hooks must not wait for the device. Tensors on torch's "meta" device have no numbers: whoever reads one fails.

Not seen here: blocking copies to the device, and ops that read lengths in their CUDA code alone; of LoRA,
tests/gpu/test_collector.py sees them.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers

from gradsift import Gamma
from gradsift.collector import GradientCollector, collector, sketching, transfer


@pytest.fixture
def on_meta(monkeypatch):
    """Ops "run" on the meta device and note what they were called with; nothing can be copied out of it."""
    calls = []

    def note(*operands, out, norms, param, cu_seqlens=None, moments=None, **rest):
        tensors = [x for x in (*operands, *(moments or ()), out, norms) if isinstance(x, torch.Tensor)]
        assert {x.device.type for x in tensors} == {"meta"}
        assert cu_seqlens is None or isinstance(cu_seqlens, np.ndarray)
        calls.append(param)

    monkeypatch.setattr(sketching, "project_linear", note)
    monkeypatch.setattr(sketching, "project_rows", note)
    monkeypatch.setattr(collector, "projection_device", lambda model, backend: torch.device("meta"))
    monkeypatch.setattr(collector.backends, "choose", lambda op, backend, device: backend)
    monkeypatch.setattr(transfer, "_copied_out", lambda x: torch.zeros(x.shape, dtype=x.dtype, device="cpu"))
    # transformers reads positions itself, to see whether a batch is packed
    monkeypatch.setattr(transformers.masking_utils, "find_packed_sequence_indices", lambda positions: None)
    monkeypatch.setattr(torch, "autocast", lambda *args, **settings: nullcontext())  # which knows no meta device
    return calls


def after_its_first_batch(model, spec, **settings):
    """The first batch tries modules out and has to wait for what it finds."""
    found = GradientCollector(model, spec, **settings)
    for site in found._sites:
        site.tried = site.padding_tried = True
    found._batches, found._forward.packing_tried = 1, True
    return found


@pytest.mark.parametrize("layout", ["padded_right", "packed"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_hook_reads_a_number_of_the_device(
    on_meta, make_model, with_lora, batch_of, samples, spec, layout, checkpointing
):
    model = with_lora(make_model(attn_implementation="eager"))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model = model.to("meta")
    moments = {
        name: (torch.zeros(shape, device="meta"), torch.zeros(shape, device="meta"))
        for name, shape in GradientCollector(model, spec).parameters
    }
    found = after_its_first_batch(model, spec, gamma=Gamma.adam(step=3), moments=moments)
    sketches = found.start(batch_of[layout](samples)).result()
    assert sorted(on_meta) == sorted(name for name, _ in found.parameters)
    assert sketches.rows.shape == (len(samples), spec.proj_dim)
    assert sketches.tokens.tolist() == [int((labels[1:] != -100).sum()) for _, labels in samples]


def test_norms_and_biases_wait_for_nothing_either(on_meta, make_model, batch_of, samples, spec):
    model = make_model("gpt2", attn_implementation="eager").to("meta")
    found = after_its_first_batch(model, spec, modules=r"ln_|bias|c_attn|c_proj|c_fc")
    found.start(batch_of["padded_right"](samples))
    assert set(on_meta) == {name for name, _ in found.parameters}


READS = {
    "bool": lambda x: bool(x.sum() > 0),
    "item": lambda x: x.sum().item(),
    "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(),
    "mask": lambda x: x[x > 0],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_the_check_itself_sees_a_number_read(
    on_meta, monkeypatch, make_model, with_lora, batch_of, samples, spec, read
):
    found = after_its_first_batch(with_lora(make_model(attn_implementation="eager")).to("meta"), spec)
    monkeypatch.setattr(sketching, "project_linear", lambda activations, *rest, **more: read(activations))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        found.start(batch_of["padded_right"](samples))
