"""Samples as token ids and labels."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from gradsift.data.samples import Sample
from gradsift.data.template import ChatTemplate, Span, TemplateError
from gradsift.errors import DataError

IGNORED = -100  # the label that losses of torch and transformers leave out
_LISTED = 20
_CHUNK = 256


@dataclass(frozen=True)
class EncodedSample:
    """One sample for the model.

    Attributes
    ----------
    id : str
    input_ids : (T,) int32
    labels : (T,) int32
        The token itself where it counts in the loss, −100 elsewhere. The first is always −100: nothing predicts it.
    truncated : bool
        Tokens were cut off at the end.
    label_tokens : int
        How many labels are not −100.
    """

    id: str
    input_ids: np.ndarray
    labels: np.ndarray
    truncated: bool
    label_tokens: int

    def __post_init__(self) -> None:
        if self.input_ids.ndim != 1 or self.input_ids.shape != self.labels.shape or len(self.labels) == 0:
            raise ValueError(
                f"labels: expected the shape (T,) of input_ids with T >= 1,"
                f" got {self.labels.shape} beside {self.input_ids.shape}"
            )
        if self.labels[0] != IGNORED:
            raise ValueError(f"labels: expected {IGNORED} first, which no token predicts, got {self.labels[0]}")

    def __len__(self) -> int:
        return len(self.input_ids)


class EncodedSet(Sequence[EncodedSample]):
    """Encoded samples in the order of what was encoded.

    Attributes
    ----------
    template, template_digest : str
        Which chat template was used (`ChatTemplate.name`) and BLAKE2b-128 of its text.
    max_length : int
    truncated, without_labels : int
        How many samples were cut, and how many have no label token (left).
    """

    def __init__(
        self, samples: Iterable[EncodedSample], *, template: str, template_digest: str, max_length: int
    ) -> None:
        self._samples = tuple(samples)
        self.template = template
        self.template_digest = template_digest
        self.max_length = max_length
        self.truncated = sum(sample.truncated for sample in self._samples)
        self.without_labels = sum(sample.label_tokens == 0 for sample in self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> EncodedSample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EncodedSample]: ...
    def __getitem__(self, index: int | slice) -> EncodedSample | Sequence[EncodedSample]:
        return self._samples[index]

    @property
    def ids(self) -> list[str]:
        return [sample.id for sample in self._samples]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64, tokens of each sample."""
        return np.array([len(sample) for sample in self._samples], dtype=np.int64)

    @functools.cached_property
    def digest(self) -> str:
        """BLAKE2b-128 of ids, tokens and labels in order."""
        digest = hashlib.blake2b(digest_size=16)
        for sample in self._samples:
            name = sample.id.encode()
            digest.update(np.array([len(name), len(sample)], dtype="<i8").tobytes() + name)
            digest.update(sample.input_ids.astype("<i4").tobytes() + sample.labels.astype("<i4").tobytes())
        return digest.hexdigest()


def encode_samples(
    samples: Sequence[Sample],
    tokenizer: Any,
    *,
    max_length: int,
    template: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EncodedSet:
    """Render each chat by the tokenizer's template, tokenise it once and label the assistant's turns.

    Labels stand on the content of every assistant turn and the token that ends it. Where the template has
    ``{% generation %}`` blocks they decide instead. What is longer than `max_length` tokens loses its end.

    Parameters
    ----------
    samples : sequence of Sample
    tokenizer : transformers tokenizer, a fast one
    max_length : int
    template : str, optional
        "gradsift-default/1", or a Jinja chat template to use instead of the tokenizer's own. Without it, a tokenizer
        that has no template gets "gradsift-default/1".
    progress : callable, optional
        Called with (done, total) after each 256 samples.

    Raises
    ------
    TypeError
        A tokenizer without offsets.
    DataError
        Chats that the template refuses or changes; the first 20 are listed.
    """
    if isinstance(max_length, bool) or not isinstance(max_length, int):
        raise TypeError(f"max_length: expected an int, got {type(max_length).__name__}")
    if max_length < 2:
        raise ValueError(f"max_length: expected at least 2 tokens, of which one may have a label, got {max_length}")
    chat = ChatTemplate(tokenizer, template)
    encode = _encode_marked if chat.marks_generation else _encode_rendered
    encoded: list[EncodedSample] = []
    refused: list[str] = []
    for start in range(0, len(samples), _CHUNK):
        chunk = samples[start : start + _CHUNK]
        encoded += encode(chunk, tokenizer, chat, max_length, refused)
        if len(refused) >= _LISTED:
            break
        if progress is not None:
            progress(start + len(chunk), len(samples))
    if refused:
        more = "; reading stopped there" if len(refused) >= _LISTED else ""
        listed = "\n".join(f"  {line}" for line in refused[:_LISTED])
        raise DataError(
            f"samples: expected chats that the chat template ({chat.name}) renders, got others:\n{listed}{more}\n"
            'leave them out, or give a template that takes them (template="gradsift-default/1" takes any;'
            " one with {% generation %} blocks may change what it writes)"
        )
    return EncodedSet(encoded, template=chat.name, template_digest=chat.digest, max_length=max_length)


def require_labels(encoded: EncodedSet, what: str) -> None:
    """Refuse samples without label tokens, which cannot say what is wanted.

    Raises
    ------
    DataError
        Lists up to 20 ids; `what` is how the message calls the set.
    """
    empty = [sample.id for sample in encoded if sample.label_tokens == 0]
    if empty:
        shown = ", ".join(empty[:_LISTED]) + (", …" if len(empty) > _LISTED else "")
        raise DataError(
            f"{what}: expected label tokens in each of the {len(encoded)} samples, got {len(empty)} without any:"
            f" {shown}; their answers begin after token {encoded.max_length}: raise max_length or leave them out"
        )


def _encode_rendered(
    chunk: Sequence[Sample], tokenizer: Any, chat: ChatTemplate, max_length: int, refused: list[str]
) -> list[EncodedSample]:
    rendered: list[tuple[Sample, str, list[Span]]] = []
    for sample in chunk:
        try:
            rendered.append((sample, *chat.render(sample.messages)))
        except TemplateError as error:
            refused.append(f"{sample.place} (id {sample.id}): {error}")
    if not rendered:
        return []
    # One pass over the whole text: tokens at the borders are those the model will see. The template has written
    # the special tokens, so none are added.
    tokens = tokenizer(
        [text for _, text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    return [
        _finish(sample.id, ids, _inside(text, offsets, spans), max_length)
        for (sample, text, spans), ids, offsets in zip(
            rendered, tokens["input_ids"], tokens["offset_mapping"], strict=True
        )
    ]


def _encode_marked(
    chunk: Sequence[Sample], tokenizer: Any, chat: ChatTemplate, max_length: int, refused: list[str]
) -> list[EncodedSample]:
    encoded = []
    for sample in chunk:
        try:
            ids, marks = chat.token_mask(sample.messages)
        except TemplateError as error:
            refused.append(f"{sample.place} (id {sample.id}): {error}")
            continue
        encoded.append(_finish(sample.id, ids, np.array(marks, dtype=bool), max_length))
    return encoded


def _inside(text: str, offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> np.ndarray:
    """(T,) bool: which tokens hold a character of a span.

    A token that begins before the span counts only if it also holds one of its words (``▁word`` after a header that
    ends in a space), not where a header's white space has merged with that of the content.
    """
    marks = np.zeros(len(offsets), dtype=bool)
    if not spans:
        return marks
    start, end = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    # Byte-level tokenizers may trim white space off the offsets, which leaves a token of spaces with an empty range
    # at its end: it reaches back to the token before.
    before = np.concatenate([[0], end[:-1]])
    start = np.where(start == end, np.minimum(start, before), start)
    for first, last in spans:
        spaces = last - first - len(text[first:last].lstrip())
        marks |= (start < last) & (end > first) & ((start >= first) | (end > first + spaces))
    return marks


def _finish(name: str, ids: Sequence[int], marks: np.ndarray, max_length: int) -> EncodedSample:
    input_ids = np.array(ids[:max_length], dtype=np.int32)
    labels = np.where(marks[:max_length], input_ids, np.int32(IGNORED)).astype(np.int32)
    labels[0] = IGNORED
    return EncodedSample(name, input_ids, labels, len(ids) > max_length, int(np.count_nonzero(labels != IGNORED)))
