"""What verifying a store found, for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ShardReport:
    """What `Datastore.verify` found in one shard: `problems` is empty for a good one."""

    shard: str
    first: int
    rows: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class VerifyReport:
    """What `Datastore.verify` found. Rows that are missing are no damage; they stand in `gaps`."""

    path: str
    full: bool
    shards: tuple[ShardReport, ...]
    problems: tuple[str, ...]  # of the store as a whole: an id in two shards, two kinds of ids
    gaps: tuple[range, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not self.problems and all(shard.ok for shard in self.shards)

    def __str__(self) -> str:
        bad = [shard for shard in self.shards if not shard.ok]
        lines = [
            f"{self.path}: {'ok' if self.ok else 'DAMAGED'}, {len(self.shards)} shards, "
            f"{sum(shard.rows for shard in self.shards)} rows{', digests too' if self.full else ''}"
        ]
        lines += [f"  {shard.shard!r}: {problem}" for shard in bad for problem in shard.problems]
        lines += [f"  {problem}" for problem in self.problems]
        if self.gaps:
            lines.append(f"  missing: rows {ranges_text(list(self.gaps))}")
        return "\n".join(lines)


def ranges_text(ranges: list[range]) -> str:
    """`ranges` as text (``0 … 4, 8 … 9``), the first eight of them."""
    shown = ", ".join(f"{r.start} … {r.stop - 1}" for r in ranges[:8])
    return shown + (f" and {len(ranges) - 8} more ranges" if len(ranges) > 8 else "")
