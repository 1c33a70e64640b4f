"""The samples of a run: pool, targets and test sets, read, checked and encoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradsift.data import EncodedSet, Sample, SampleSet, encode_samples, read_samples, require_labels
from gradsift.pipeline.config import RunConfig
from gradsift.pipeline.progress import Reporter


@dataclass(frozen=True)
class Part:
    """One sample set with its encoding; the two run in parallel."""

    samples: SampleSet
    encoded: EncodedSet

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def ids(self) -> list[str]:
        return self.samples.ids

    def summary(self) -> dict[str, Any]:
        """What there is to know about how it was read."""
        return {
            "samples": len(self.samples),
            "tokens": int(sum(len(e.input_ids) for e in self.encoded)),
            "label_tokens": int(sum(e.label_tokens for e in self.encoded)),
            "truncated": self.encoded.truncated,
            "without_labels": self.encoded.without_labels,
            "bad_rows": [str(row) for row in self.samples.bad_rows],
            "template": self.encoded.template,
            "template_digest": self.encoded.template_digest,
            "digest": self.encoded.digest,
            "sources": [asdict(s) for s in self.samples.sources],
        }

    def line(self, title: str) -> str:
        """One line for people."""
        extras = [
            f"{count} {what}"
            for count, what in (
                (self.encoded.truncated, "truncated"),
                (self.encoded.without_labels, "without label tokens"),
                (len(self.samples.bad_rows), "bad rows left out"),
            )
            if count
        ]
        tail = f" ({', '.join(extras)})" if extras else ""
        return f"{title}: {len(self)} samples, {sum(len(e.input_ids) for e in self.encoded)} tokens{tail}"


def read_pool(config: RunConfig) -> SampleSet:
    """The candidates, not yet encoded."""
    pool = config.pool
    return read_samples(
        pool.sources,
        id_field=pool.id_field,
        bad_rows=pool.bad_rows,
        limit=pool.limit,
        ids=None if pool.ids is None else Path(pool.ids),
    )


def load_pool(config: RunConfig, tokenizer: Any, reporter: Reporter) -> Part:
    """The candidates."""
    part = _encode(config, read_pool(config), tokenizer)
    reporter.say(part.line("pool"))
    return part


def read_target(config: RunConfig, name: str) -> SampleSet:
    """The examples of one target, not yet encoded."""
    target = config.targets[name]
    return read_samples(
        target.sources,
        id_field=target.id_field,
        subtask_field=target.subtask_field,
        subtask_from_file=target.subtask_from_file,
        bad_rows=target.bad_rows,
    )


def load_target(config: RunConfig, name: str, tokenizer: Any, reporter: Reporter) -> Part:
    """The examples of one target; every one must have label tokens left."""
    part = _encode(config, read_target(config, name), tokenizer)
    require_labels(part.encoded, f"target {name}")
    reporter.say(part.line(f"target {name}"))
    return part


def load_test(config: RunConfig, name: str, tokenizer: Any, reporter: Reporter) -> Part | None:
    """The test set of one target, or None where the configuration names none.

    Examples whose answer lies beyond `max_length` cannot be measured: they are left out, and counted aloud.
    """
    target = config.targets[name]
    if not target.test:
        return None
    samples = read_samples(target.test, id_field=target.id_field, bad_rows=target.bad_rows, limit=config.evaluate.limit)
    part = _encode(config, samples, tokenizer)
    reporter.say(part.line(f"test set of {name}"))
    return _with_labels(part, f"test set of {name}", reporter)


def _with_labels(part: Part, what: str, reporter: Reporter) -> Part:
    kept = [i for i, sample in enumerate(part.encoded) if sample.label_tokens > 0]
    if not kept:
        require_labels(part.encoded, what)
    if len(kept) == len(part):
        return part
    reporter.say(f"{what}: {len(part) - len(kept)} examples left out, their answers begin after max_length")
    encoded = part.encoded
    return Part(
        SampleSet((part.samples[i] for i in kept), bad_rows=part.samples.bad_rows, sources=part.samples.sources),
        EncodedSet(
            (encoded[i] for i in kept),
            template=encoded.template,
            template_digest=encoded.template_digest,
            max_length=encoded.max_length,
        ),
    )


def _encode(config: RunConfig, samples: SampleSet, tokenizer: Any) -> Part:
    model = config.model
    return Part(samples, encode_samples(samples, tokenizer, max_length=model.max_length, template=model.template))


def subtasks_of(name: str, samples: Iterable[Sample]) -> list[str]:
    """The subtask of every example of target `name`: the target itself, or ``target/subtask``."""
    return [f"{name}/{s.subtask}" if s.subtask else name for s in samples]


def subtask_names(name: str, part: Part) -> list[str]:
    """`subtasks_of` the examples of a part."""
    return subtasks_of(name, part.samples)


def source_name(sample: Any) -> str:
    """Where a sample comes from, for tables: its ``dataset`` column, else the stem of its file."""
    dataset = sample.record.get("dataset")
    return str(dataset) if dataset else Path(sample.source).stem
