"""Which sample a token belongs to, by the shapes that modules see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradsift import errors
from gradsift.collector.layout import Layout

# Two samples of 3 and 2 tokens; (row, position) of padding is (1, 0).
PADDED = Layout((2, 3), np.array([0, 3, 5]), torch.tensor([0, 1, 2, 4, 5]))
PACKED = Layout((1, 5), np.array([0, 3, 5]), packed=True)
SAMPLES = Layout.of_samples(2)


def _numbered(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize(
    ("layout", "shape", "rows", "offsets"),
    [
        (PADDED, (2, 3, 1), [0, 1, 2, 4, 5], [0, 3, 5]),
        (PADDED, (6, 1), [0, 1, 2, 4, 5], [0, 3, 5]),
        (PADDED, (2, 3, 2, 1), [0, 1, 2, 3, 4, 5, 8, 9, 10, 11], [0, 6, 10]),  # heads behind tokens
        (PADDED, (2, 2, 3, 1), range(12), [0, 6, 12]),  # heads before tokens: padding stays, with its zeros
        (PADDED, (2, 3, 3, 1), range(18), [0, 9, 18]),  # either could be the tokens
        (PACKED, (1, 5, 1), range(5), [0, 3, 5]),
        (PACKED, (5, 1), range(5), [0, 3, 5]),
        (PACKED, (1, 5, 2, 1), range(10), [0, 6, 10]),
        (SAMPLES, (2, 1), range(2), [0, 1, 2]),
        (SAMPLES, (2, 4, 3, 1), range(24), [0, 12, 24]),
    ],
)
def test_tokens_go_to_their_samples(layout, shape, rows, offsets):
    tokens = layout.tokens(_numbered(*shape), where="module")
    assert tokens.values[:, 0].tolist() == list(rows)
    assert tokens.offsets.tolist() == offsets


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (PADDED, (3, 1)),
        (PADDED, (2, 1)),  # pooled, or two tokens routed to an expert
        (PADDED, (1,)),
        (PACKED, (1, 4, 1)),
        (PACKED, (1, 5, 5, 1)),
        (PACKED, (2, 5, 1)),
        (SAMPLES, (3, 1)),
        (SAMPLES, (1, 2, 1)),
    ],
)
def test_shapes_that_name_no_sample_are_refused(layout, shape):
    with pytest.raises(errors.CollectError, match=r"^some layer: expected a tensor with leading dimensions .*modules="):
        layout.tokens(_numbered(*shape), where="some layer")


@pytest.mark.parametrize(
    ("layout", "shape", "want"),
    [
        (PADDED, (2, 3, 4), np.s_[1:2]),
        (PADDED, (6, 4), np.s_[3:6]),
        (PADDED, (1, 1, 3, 3), np.s_[:]),
        (PACKED, (1, 5, 4), np.s_[:, 3:5]),
        (PACKED, (5, 4), np.s_[3:5]),
        (PACKED, (1, 1, 5, 5), np.s_[:, :, 3:5, 3:5]),
        (PACKED, (1, 1), np.s_[:]),
        (SAMPLES, (2, 7), np.s_[1:2]),
    ],
)
def test_one_samples_part_keeps_its_dimensions(layout, shape, want):
    tensor = _numbered(*shape)
    assert torch.equal(layout.sample_of(tensor, 1, where="module"), tensor[want])


@pytest.mark.parametrize(("layout", "shape"), [(PADDED, (4, 3)), (PACKED, (2, 2, 5)), (SAMPLES, (3,))])
def test_a_part_that_cannot_be_told_is_refused(layout, shape):
    with pytest.raises(errors.CollectError, match="some layer: expected"):
        layout.sample_of(_numbered(*shape), 1, where="some layer")


def test_padding_is_what_is_not_kept():
    assert PADDED.padding_of(_numbered(2, 3, 1)).tolist() == [[3.0]]
    assert PADDED.padding_of(_numbered(6, 1)).tolist() == [[3.0]]
    assert PADDED.padding_of(_numbered(2, 4, 1)) is None
    assert PACKED.padding_of(_numbered(1, 5, 1)) is None
