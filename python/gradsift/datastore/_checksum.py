"""The one place that names the checksum, so that every byte of a store is checked by the same function."""

from __future__ import annotations

from gradsift import _native
from gradsift._native import crc32c
from gradsift.ops._native_args import default_threads

__all__ = ["crc32c", "crc32c_blocks"]


def crc32c_blocks(data: memoryview, block_bytes: int) -> list[int]:
    """The checksum of each `block_bytes` of `data`, of which the last may be fewer; on all threads."""
    return _native.crc32c_blocks(data, block_bytes=block_bytes, threads=default_threads())
