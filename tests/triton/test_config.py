"""The rule that cuts work into programs: it covers everything, is bounded, and chooses nothing that is not compiled."""

import itertools

import pytest

from gradsift.ops.project_linear.triton_config import (
    MAX_SLICES,
    configuration,
    configurations,
    slab_floats,
    slice_count,
)

SIDES = (1, 8, 16, 17, 64, 65, 128, 576, 4096, 128_256)
PROJ_DIMS = (256, 1024, 8192, 65536)
DTYPES = ("float32", "bfloat16", "float16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_choice_is_among_those_compiled_ahead_of_time(dtype):
    chosen = {configuration(*shape, dtype) for shape in itertools.product(SIDES, SIDES)}
    assert chosen == set(configurations(dtype))


@pytest.mark.parametrize("proj_dim", PROJ_DIMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_slices_cover_every_tile_and_none_is_empty(dtype, proj_dim):
    for d_out, d_in in itertools.product(SIDES, SIDES):
        config = configuration(d_out, d_in, dtype)
        tiles = -(-d_out // config.block_out) * -(-d_in // config.block_in)
        slices, each = slice_count(d_out, d_in, proj_dim, config)
        assert (slices - 1) * each < tiles <= slices * each
        assert 1 <= slices <= MAX_SLICES


@pytest.mark.parametrize("proj_dim", PROJ_DIMS)
def test_slabs_are_small_beside_the_weight_where_they_are_many(proj_dim):
    for d_out, d_in in itertools.product(SIDES, SIDES):
        config = configuration(d_out, d_in, "bfloat16")
        slices, _ = slice_count(d_out, d_in, proj_dim, config)
        assert slices <= 8 or slices * slab_floats(proj_dim, config) <= d_out * d_in / 2


def test_a_tile_never_crosses_the_columns_of_a_chunk():
    for dtype, d_out, d_in in itertools.product(DTYPES, SIDES, SIDES):
        config = configuration(d_out, d_in, dtype)
        assert config.block_in == 128 or config.block_in >= d_in
