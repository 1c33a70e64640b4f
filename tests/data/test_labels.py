from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradsift.data import DEFAULT_TEMPLATE, encode_samples, read_samples
from gradsift.errors import DataError

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n\n' }}"
    "{{ m['content'] | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
# The system prompt goes to the last user turn, as in Mistral's: a chat does not begin like its own beginning.
SYSTEM_LAST = (
    "{% set s = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST] {% if loop.index0 >= messages | length - 2 %}{{ s }} {% endif %}"
    "{{ m['content'] }} [/INST]{% elif m['role'] == 'assistant' %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
# The last reply is written differently from the others, as in Qwen3's.
THINK_LAST = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
)
GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}"
)
BARE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (None, "<|im_end|>"),
        (DEFAULT_TEMPLATE, "<|im_end|>"),
        (LLAMA3, "<|im_end|>"),
        (THINK_LAST, "<|im_end|>"),
        (GENERATION, "<|im_end|>"),
        (SYSTEM_LAST, "</s>"),
        (BARE, "\n"),
    ],
)
@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("trailing_user", [True, False])
def test_labels_are_the_assistant_turns_and_what_ends_them(
    template, end, system, trailing_user, tokenizer, chat, labelled_text
):
    row = chat("user", "a", "assistant", "hello <b> assistant", "hello", "user", *["bye"] * trailing_user)
    if system:
        row["messages"].insert(0, {"role": "system", "content": "assistant: a"})
    (sample,) = encode_samples(read_samples([row]), tokenizer, max_length=1000, template=template)
    # " hello" is one token and keeps the space that a template may write before it.
    labelled = labelled_text(tokenizer, sample).replace(" hello", "hello")
    assert labelled == f"a{end}hello <b> assistant{end}user{end}"


def test_a_chat_may_begin_with_the_assistant(tokenizer, labelled_text):
    messages = [{"role": role, "content": role} for role in ("assistant", "user", "assistant")]
    (sample,) = encode_samples(read_samples([{"messages": messages}]), tokenizer, max_length=1000)
    assert labelled_text(tokenizer, sample) == "assistant<|im_end|>assistant<|im_end|>"


def test_a_template_may_trim_the_reply(tokenizer, chat, labelled_text):
    samples = read_samples([chat("q", " \n the fox\n", "q", "x  ")])
    (sample,) = encode_samples(samples, tokenizer, max_length=1000, template=LLAMA3)
    assert labelled_text(tokenizer, sample) == "the fox<|im_end|>x<|im_end|>"


def test_a_chat_may_hold_the_word_that_stands_for_replies(tokenizer, chat, labelled_text):
    samples = read_samples([chat("GRADSIFTMARK", "GRADSIFTMARKX GRADSIFTMARK")])
    (sample,) = encode_samples(samples, tokenizer, max_length=1000)
    assert labelled_text(tokenizer, sample) == "GRADSIFTMARKX GRADSIFTMARK<|im_end|>"


def test_the_text_is_what_the_template_writes_and_nothing_is_added(tokenizer, chat):
    row = chat("the quick fox", "hello")
    (sample,) = encode_samples(read_samples([row]), tokenizer, max_length=1000)
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert text.startswith("<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\n")
    assert tokenizer.decode(sample.input_ids, clean_up_tokenization_spaces=False) == text


def test_the_default_template_is_written_as_documented(tokenizer, chat):
    row = chat("q", "a")
    row["messages"].insert(0, {"role": "system", "content": "s"})
    encoded = encode_samples(read_samples([row]), tokenizer, max_length=1000, template=DEFAULT_TEMPLATE)
    text = tokenizer.decode(encoded[0].input_ids, clean_up_tokenization_spaces=False)
    assert text == "<|system|>\ns\n<|user|>\nq\n<|assistant|>\na<|im_end|>\n"
    assert encoded.template == "gradsift-default/1"


def test_one_bos_stands_first_where_the_tokenizer_has_one(spaced_tokenizer, chat):
    samples = read_samples([chat("what is it", "a fox")])
    default = encode_samples(samples, spaced_tokenizer, max_length=1000)
    assert default.template == "gradsift-default/1"
    written = encode_samples(samples, spaced_tokenizer, max_length=1000, template="{{ bos_token }}" + SYSTEM_LAST)
    for encoded in (default, written):
        assert (encoded[0].input_ids == spaced_tokenizer.bos_token_id).tolist() == [True] + [False] * (
            len(encoded[0]) - 1
        )


def test_a_first_word_that_carries_the_space_before_it_is_labelled(spaced_tokenizer, chat, labelled_text):
    samples = read_samples([chat("what is it", "a fox", "what", "the fox")])
    (sample,) = encode_samples(samples, spaced_tokenizer, max_length=1000, template=SYSTEM_LAST)
    assert labelled_text(spaced_tokenizer, sample) == "a fox</s> the fox</s>"


def test_white_space_that_merges_with_the_role_header_is_not_labelled(tokenizer, chat, labelled_text):
    tokens = tokenizer.tokenize("\n  two")
    assert tokens[0] == "ĊĠ", "the header's line break and the first space must be one token here"
    (sample,) = encode_samples(read_samples([chat("q", "  two")]), tokenizer, max_length=1000)
    assert labelled_text(tokenizer, sample) == " two<|im_end|>"


def test_spaces_are_labelled_where_the_tokenizer_trims_its_offsets(tokenizer, chat, labelled_text):
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    trimming = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", chat_template=tokenizer.chat_template
    )
    (sample,) = encode_samples(read_samples([chat("q", "fox    fox \n x")]), trimming, max_length=1000)
    assert labelled_text(trimming, sample) == "fox    fox \n x<|im_end|>"
    # Trimmed, the space that ends this turn has an empty range, right behind its last character.
    spaced = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + ' ' }}{% endfor %}"
    (sample,) = encode_samples(read_samples([chat("q", "fox")]), trimming, max_length=1000, template=spaced)
    assert labelled_text(trimming, sample) == "fox "


# "<" could spell a special token; a turn's leading white space may merge with its header (see above).
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=30)
_REPLY = _TEXT.map(str.lstrip)
_TURNS = st.lists(st.tuples(_TEXT.filter(str.strip), _REPLY), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=_TURNS.filter(lambda turns: any(reply for _, reply in turns)), default=st.booleans())
def test_labels_of_any_chat_decode_to_its_replies(turns, default, tokenizer, chat, labelled_text):
    row = chat(*[text for turn in turns for text in turn])
    template = DEFAULT_TEMPLATE if default else None
    (sample,) = encode_samples(read_samples([row]), tokenizer, max_length=10_000, template=template)
    assert labelled_text(tokenizer, sample) == "".join(f"{reply}<|im_end|>" for _, reply in turns)


def test_truncation_keeps_the_beginning_and_is_counted(tokenizer, chat):
    samples = read_samples([chat("hello", "the quick brown fox"), chat("hello", "a")])
    whole = encode_samples(samples, tokenizer, max_length=1000)
    first_label = int(np.argmax(whole[0].labels != -100))
    cut = encode_samples(samples, tokenizer, max_length=first_label + 2)
    np.testing.assert_array_equal(cut[0].input_ids, whole[0].input_ids[: first_label + 2])
    np.testing.assert_array_equal(cut[0].labels, whole[0].labels[: first_label + 2])
    assert (cut[0].truncated, cut[0].label_tokens) == (True, 2)
    assert (cut.truncated, whole.truncated, cut.without_labels) == (1 + cut[1].truncated, 0, 0)


def test_the_first_token_never_has_a_label(tokenizer):
    template = "{% for m in messages if m['role'] == 'assistant' %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    samples = read_samples([{"prompt": "q", "completion": "fox"}])
    (sample,) = encode_samples(samples, tokenizer, max_length=9, template=template)
    assert sample.labels[0] == -100
    np.testing.assert_array_equal(sample.labels[1:], sample.input_ids[1:])
    assert sample.label_tokens == len(sample) - 1


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system here') }}", "its refusal: no system here"),
        ("{% for m in messages %}{{ m['content'] | lower }};{% endfor %}", "got 0"),
        ("{% for m in messages %}{{ m['content'] | upper }};{% endfor %}", "changed by the template"),
        ("{% for m in messages %}{{ m['content'].split('</think>')[-1] }};{% endfor %}", "changed by the template"),
        ("{{ messages | length }}", "got 0"),
        ("{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}", "got 2"),
        (
            "{% for m in messages %}{{ m['content'] }}{% if loop.last %}</s>{% else %};{% endif %}{% endfor %}",
            "after assistant turn 0",
        ),
        ("{{ messages[1]['content'] | length }}{{ messages[1]['content'] }}</s>", "leaves the text around"),
    ],
)
def test_a_template_that_hides_the_reply_is_refused_with_the_sample(template, reason, tokenizer, chat):
    turns = ("q", "x</think>a", "q", "a") if "after" in reason else ("q", "x</think>a")
    with pytest.raises(DataError, match=reason) as error:
        encode_samples(read_samples([chat(*turns, id="mine")]), tokenizer, max_length=99, template=template)
    assert "rows 0:1 (id mine)" in str(error.value)
    assert DEFAULT_TEMPLATE in str(error.value)


def test_a_generation_template_that_refuses_names_the_sample(tokenizer, chat):
    template = "{% generation %}{{ raise_exception('never') }}{% endgeneration %}"
    with pytest.raises(DataError, match=r"rows 0:1 \(id mine\): .*refusal: never"):
        encode_samples(read_samples([chat("q", "a", id="mine")]), tokenizer, max_length=99, template=template)


@pytest.mark.slow
def test_smollm2_labels_decode_to_the_replies(chat, labelled_text):
    folder = os.environ.get("GRADSIFT_TEST_MODEL")
    if not folder:
        pytest.skip("GRADSIFT_TEST_MODEL names no folder of SmolLM2-135M-Instruct")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    row = chat("Hi!", "Größe: 12,5 cm 😀\n", "And\nnow?", "fn(x):\n    return x  # done", "bye")
    (sample,) = encode_samples(read_samples([row]), tokenizer, max_length=1000)
    assert labelled_text(tokenizer, sample) == "Größe: 12,5 cm 😀\n<|im_end|>fn(x):\n    return x  # done<|im_end|>"
    assert tokenizer.decode(sample.input_ids[:2]).startswith("<|im_start|>system")
