"""CRC-32C: published values, both code paths (the scalar level takes the tables), any cut and alignment."""

import numpy as np
import pytest

# RFC 3720 B.4 and the usual check value
VECTORS = [
    (b"", 0x00000000),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
]


@pytest.mark.parametrize(("data", "want"), VECTORS)
def test_published_values(native, isa, data, want):
    assert native.crc32c(data) == want


def test_tables_and_instruction_agree_at_every_length_and_offset(native, rng):
    data = rng.bytes(80)
    spans = [(lo, hi) for lo in range(9) for hi in range(lo, 80)]
    values = {}
    for name in native.isas():
        native.set_isa(name)
        values[name] = [native.crc32c(memoryview(data)[lo:hi]) for lo, hi in spans]
    assert all(value == values["scalar"] for value in values.values())


def test_tables_and_instruction_agree_where_three_streams_begin_and_end(native, rng):
    data = rng.bytes(4 * 3072 + 16)
    spans = [(lo, lo + n) for lo in (0, 3) for n in (3071, 3072, 3073, 6143, 6144, 6152, 9215, 9216, 12288, 12297)]
    values = {}
    for name in native.isas():
        native.set_isa(name)
        values[name] = [native.crc32c(memoryview(data)[lo:hi]) for lo, hi in spans]
    assert all(value == values["scalar"] for value in values.values())


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 20_000])
def test_blocks_have_the_values_they_have_alone(native, isa, rng, size, threads):
    data = rng.bytes(size)
    want = [native.crc32c(data[at : at + 4096]) for at in range(0, size, 4096)]
    assert native.crc32c_blocks(data, block_bytes=4096, threads=threads) == want


def test_blocks_of_no_bytes_are_refused(native):
    with pytest.raises(ValueError, match="block_bytes: expected at least 1, got 0"):
        native.crc32c_blocks(b"abc", block_bytes=0, threads=1)


def test_continues_from_the_value_of_what_came_before(native, isa, rng):
    data = rng.bytes(1000)
    whole = native.crc32c(data)
    for cut in (0, 1, 7, 8, 500, 999, 1000):
        assert native.crc32c(data[cut:], native.crc32c(data[:cut])) == whole


def test_takes_arrays_and_refuses_gaps_and_text(native):
    array = np.arange(12, dtype=np.int32)
    assert native.crc32c(array) == native.crc32c(array.tobytes())
    with pytest.raises((BufferError, ValueError)):
        native.crc32c(array[::2])
    with pytest.raises(TypeError):
        native.crc32c("text")
