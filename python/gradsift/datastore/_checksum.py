"""The one place that names the checksum, so that every byte of a store is checked by the same function."""

from __future__ import annotations

from gradsift._native import crc32c

__all__ = ["crc32c"]
