from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsift.data import EncodedSample, batches_by_length, collate
from gradsift.errors import DependencyMissingError


def sample(*ids: int) -> EncodedSample:
    array = np.array(ids, dtype=np.int32)
    labels = array.copy()
    labels[0] = -100
    return EncodedSample(str(ids), array, labels, False, len(ids) - 1)


def test_padded_rows_are_filled_on_the_right():
    batch = collate([sample(5, 6, 7), sample(8)], pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, -100, -100]]
    assert {str(tensor.dtype) for tensor in batch.values()} == {"torch.int64"}


def test_packed_samples_lie_end_to_end_and_positions_start_anew():
    batch = collate([sample(5, 6, 7), sample(8, 9)], pad_id=0, layout="packed")
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9]]
    assert batch["cu_seqlens"].tolist() == [0, 3, 5]
    assert {str(tensor.dtype) for tensor in batch.values()} == {"torch.int64"}


def test_no_samples_and_unknown_layouts_are_refused():
    with pytest.raises(ValueError, match="samples: expected at least one"):
        collate([], pad_id=0)
    with pytest.raises(ValueError, match="layout: expected"):
        collate([sample(1)], pad_id=0, layout="ragged")


def test_without_torch_the_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DependencyMissingError, match=r'pip install "gradsift\[torch\]"'):
        collate([sample(1)], pad_id=0)


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 700))
def test_batches_hold_every_sample_once_within_the_limit(lengths, max_tokens):
    batches = batches_by_length(lengths, max_tokens)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) * longest <= max_tokens or len(batch) == 1


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 700))
def test_packed_batches_count_the_sum_of_lengths_and_take_what_fits(lengths, max_tokens):
    batches = batches_by_length(lengths, max_tokens, "packed")
    order = [int(i) for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    for batch, after in zip(batches, [*batches[1:], None], strict=False):
        tokens = sum(lengths[i] for i in batch)
        assert tokens <= max_tokens or len(batch) == 1
        assert after is None or tokens + lengths[after[0]] > max_tokens


def test_batches_go_from_long_to_short_and_keep_the_order_of_equals():
    batches = batches_by_length([3, 9, 3, 5, 50, 3], max_tokens=10)
    assert [batch.tolist() for batch in batches] == [[4], [1], [3, 0], [2, 5]]


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "reason"),
    [([1, 0], 5, "lengths: expected at least 1"), ([[1]], 5, "one dimension"), ([1], 0, "max_tokens: expected")],
)
def test_wrong_lengths_and_limits_are_refused(lengths, max_tokens, reason):
    with pytest.raises(ValueError, match=reason):
        batches_by_length(lengths, max_tokens)


def test_a_layout_of_another_name_is_refused():
    with pytest.raises(ValueError, match="layout: expected"):
        batches_by_length([1], 1, "ragged")
