from __future__ import annotations

import numpy as np
import pytest

from gradsift.data import EncodedSample, encode_samples, read_samples, require_labels
from gradsift.errors import DataError


def test_arrays_are_int32_and_counts_agree(tokenizer, chat):
    encoded = encode_samples(read_samples([chat("q", "hello"), chat("q", "the fox")]), tokenizer, max_length=99)
    for sample in encoded:
        assert (sample.input_ids.dtype, sample.labels.dtype) == (np.int32, np.int32)
        assert sample.label_tokens == np.count_nonzero(sample.labels != -100) > 0
    assert encoded.lengths.tolist() == [len(sample) for sample in encoded]
    assert encoded.ids == [sample.id for sample in encoded]
    assert (encoded.template, encoded.max_length) == ("tokenizer", 99)


def test_a_sample_whose_labels_are_cut_away_is_kept_counted_and_refused_as_target(tokenizer, chat):
    samples = read_samples([chat("hello " * 50, "a", id="long"), chat("q", "a", id="short")])
    encoded = encode_samples(samples, tokenizer, max_length=40)
    assert (len(encoded), encoded.without_labels, encoded[0].label_tokens) == (2, 1, 0)
    with pytest.raises(DataError, match=r"target scan: .* got 1 without any: long; .* raise max_length"):
        require_labels(encoded, "target scan")
    require_labels(encode_samples(samples, tokenizer, max_length=999), "target scan")


def test_digests_follow_tokens_labels_and_template(tokenizer, chat):
    samples = read_samples([chat("q", "hello there")])
    base = encode_samples(samples, tokenizer, max_length=99)
    again = encode_samples(samples, tokenizer, max_length=99)
    shorter = encode_samples(samples, tokenizer, max_length=len(base[0]) - 3)
    other = encode_samples(samples, tokenizer, max_length=99, template=tokenizer.chat_template + " ")
    assert base.digest == again.digest
    assert len({base.digest, shorter.digest, other.digest}) == 3
    assert base.template_digest == again.template_digest != other.template_digest
    assert other.template == "given"


def test_many_samples_keep_their_order_and_report_progress(tokenizer, chat):
    samples = read_samples([chat("q", f"answer {i}") for i in range(300)])
    calls = []
    encoded = encode_samples(samples, tokenizer, max_length=99, progress=lambda *call: calls.append(call))
    assert encoded.ids == samples.ids
    assert calls == [(256, 300), (300, 300)]
    alone = encode_samples(samples[299:], tokenizer, max_length=99)
    np.testing.assert_array_equal(encoded[299].input_ids, alone[0].input_ids)


def test_twenty_refused_chats_are_listed_before_reading_stops(tokenizer, chat):
    template = "{{ raise_exception('never') }}"
    samples = read_samples([chat("q", f"a {i}") for i in range(300)])
    with pytest.raises(DataError, match="reading stopped there") as error:
        encode_samples(samples, tokenizer, max_length=99, template=template)
    assert str(error.value).count("refusal: never") == 20


def test_a_tokenizer_without_offsets_is_refused(chat):
    class Slow:
        is_fast = False

    with pytest.raises(TypeError, match=r"tokenizer: expected a fast tokenizer .* got Slow"):
        encode_samples(read_samples([chat("q", "a")]), Slow(), max_length=99)


def test_the_default_template_needs_a_token_that_ends_a_turn(tokenizer, chat):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="tokenizer: expected an eos_token"):
        encode_samples(read_samples([chat("q", "a")]), bare, max_length=99)


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"max_length": 1}, ValueError, "max_length: expected at least 2"),
        ({"max_length": 9.5}, TypeError, "max_length: expected an int"),
        ({"max_length": 9, "template": "chatml"}, ValueError, "template: expected None"),
    ],
)
def test_wrong_options_are_refused(options, error, reason, tokenizer, chat):
    with pytest.raises(error, match=reason):
        encode_samples(read_samples([chat("q", "a")]), tokenizer, **options)


def test_an_encoded_sample_checks_its_arrays():
    ids = np.array([1, 2], dtype=np.int32)
    with pytest.raises(ValueError, match="labels: expected the shape"):
        EncodedSample("a", ids, ids[:1], False, 1)
    with pytest.raises(ValueError, match="labels: expected -100 first"):
        EncodedSample("a", ids, ids, False, 2)
