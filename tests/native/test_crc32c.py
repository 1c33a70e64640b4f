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
