"""Batches and sketches between CPU memory and a device, as far as it can be told without one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gradsift.collector import GradientCollector, PendingSketches, transfer, uses


def test_a_result_asked_for_twice_is_the_same():
    rows, norms = torch.ones(2, 4), torch.tensor([[4.0, 9.0], [1.0, 1.0]], dtype=torch.float64)
    pending = PendingSketches(rows, norms, torch.tensor([0.5, 0.0], dtype=torch.bfloat16), np.array([3, 0]))
    first, second = pending.result(), pending.result()
    for got in (first, second):
        assert got.rows.tolist() == [[1.0] * 4, [0.0] * 4]
        assert got.grad_norm.tolist() == [2.0, 0.0]
        assert got.gamma_norm.tolist() == [3.0, 0.0]
        assert got.loss.dtype == np.float32


def test_every_gpu_that_a_part_lies_on_is_waited_for(monkeypatch):
    class Elsewhere:
        """A tensor of a GPU that is not here."""

        def __init__(self, here, device):
            self.here, self.device = here, torch.device(device)

        def detach(self):
            return self

        float = detach

    waited = []
    event = lambda device: SimpleNamespace(synchronize=lambda: waited.append(str(device)))  # noqa: E731
    monkeypatch.setattr(transfer, "_copied_out", lambda part: part.here)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda d: SimpleNamespace(record_event=lambda: event(d)))
    rows = Elsewhere(torch.ones(2, 4), "cuda:0")
    norms = Elsewhere(torch.ones(2, 2, dtype=torch.float64), "cuda:0")
    pending = PendingSketches(rows, norms, Elsewhere(torch.ones(2), "cuda:1"), np.array([1, 1]))
    assert not waited
    pending.result()
    assert sorted(waited) == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize("layout", ["padded_right", "packed"])
def test_torchs_default_device_moves_nothing(layout, make_model, samples, batch_of, spec):
    model, batch = make_model(), batch_of[layout](samples)
    want = GradientCollector(model, spec, modules="proj").collect(batch)
    torch.set_default_device("meta")
    try:
        got = GradientCollector(model, spec, modules="proj").collect(batch)
    finally:
        torch.set_default_device(None)
    np.testing.assert_array_equal(got.rows, want.rows)


def test_devices_without_segment_reduce_sum_the_same(monkeypatch):
    values, lengths = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 2, 0, 3, 1, 0])
    want = uses.sum_segments(values, lengths)
    assert want.tolist() == [[0, 0], [2, 4], [0, 0], [18, 21], [10, 11], [0, 0]]
    monkeypatch.setattr(uses, "_HAVE_SEGMENT_REDUCE", ())
    monkeypatch.setattr(torch, "segment_reduce", None)
    assert torch.equal(uses.sum_segments(values, lengths), want)
