"""Data in: files and datasets as checked samples, samples as tokens and labels, tokens as batches."""

from gradsift.data.batching import batches_by_length, collate
from gradsift.data.encode import IGNORED, EncodedSample, EncodedSet, encode_samples, require_labels
from gradsift.data.samples import BadRow, Sample, SampleSet, SourceInfo, read_samples
from gradsift.data.sources import find_sources
from gradsift.data.template import DEFAULT_TEMPLATE, ChatTemplate

__all__ = [
    "DEFAULT_TEMPLATE",
    "IGNORED",
    "BadRow",
    "ChatTemplate",
    "EncodedSample",
    "EncodedSet",
    "Sample",
    "SampleSet",
    "SourceInfo",
    "batches_by_length",
    "collate",
    "encode_samples",
    "find_sources",
    "read_samples",
    "require_labels",
]
