from __future__ import annotations

import hashlib
import json

import pytest

from gradsift.data import read_samples
from gradsift.errors import DataError

GOOD = {"prompt": "p", "completion": "c"}
USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"messages": [USER, {"role": "assistant", "content": " a "}]}, [("user", "q"), ("assistant", " a ")]),
        (
            {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"},
                               {"from": "gpt", "value": "a"}]},
            [("system", "s"), ("user", "q"), ("assistant", "a")],
        ),
        ({"prompt": "q", "completion": "a"}, [("user", "q"), ("assistant", "a")]),
        (
            {"prompt": [{"role": "system", "content": ""}, USER],
             "completion": [{"role": "assistant", "content": "a"}]},
            [("system", ""), ("user", "q"), ("assistant", "a")],
        ),
        ({"instruction": "do", "input": "this", "output": "a"}, [("user", "do\n\nthis"), ("assistant", "a")]),
        ({"instruction": "do", "input": " ", "output": "a"}, [("user", "do"), ("assistant", "a")]),
        ({"instruction": "do", "output": "a"}, [("user", "do"), ("assistant", "a")]),
    ],
)  # fmt: skip
def test_each_shape_of_row_becomes_the_same_kind_of_chat(row, want):
    (sample,) = read_samples([row])
    assert [(message["role"], message["content"]) for message in sample.messages] == want
    assert sample.record == row


def test_shapes_may_differ_from_row_to_row(tmp_path, chat, write_lines):
    write_lines(tmp_path / "a.jsonl", chat("q", "1"), GOOD)
    write_lines(tmp_path / "b.jsonl", {"instruction": "i", "output": "o"})
    assert [len(sample.messages) for sample in read_samples(tmp_path)] == [2, 2, 2]


BAD_ROWS = [
    ("shape", {"text": "hello"}, "columns: expected messages, conversations.*got text"),
    ("shape", {"messages": "hello"}, "messages: expected a list of messages, got str"),
    ("shape", {"messages": [1]}, r"messages\[0\]: expected an object, got int"),
    ("shape", {"messages": [{"role": "user", "content": ["parts"]}]}, "expected a string, got list"),
    ("shape", {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [{}]}]}, "tool_calls"),
    ("shape", {"conversations": [{"role": "user", "content": "q"}]}, 'call it "messages"'),
    ("shape", {"instruction": "i", "output": 3}, "output: expected a string, got int"),
    ("role", {"messages": [{"role": "narrator", "content": "x"}]}, "got 'narrator'"),
    ("role", {"conversations": [{"from": "bard", "value": "x"}]}, "got 'bard'"),
    ("empty", {"messages": []}, "got an empty list"),
    ("empty", {"prompt": " ", "completion": "c"}, "message 0: expected a user turn with text"),
    ("empty", {"prompt": "p", "completion": "\n"}, "expected an assistant turn with text"),
    ("no_assistant", {"messages": [USER]}, "at least one assistant turn, got none"),
    ("json", b'{"prompt": "p", ', "expected JSON"),
    ("json", b'"prompt"', "expected a JSON object, got str"),
    ("json", b'{"prompt": "p", "completion": "c", "x": NaN}', "NaN is not JSON"),
    ("json", b"[" * 100_000, "expected JSON"),
    ("encoding", b'{"prompt": "\xff", "completion": "c"}', "byte 0xff at offset 12"),
    ("encoding", b'{"prompt": "\\ud800", "completion": "c"}', "lone surrogate"),
    ("id", {**GOOD, "id": 1.5}, "id: expected a string or an integer, got float"),
    ("id", {**GOOD, "id": True}, "got bool"),
    ("id", {**GOOD, "id": ""}, "expected one line of text"),
    ("id", {**GOOD, "id": "a\nb"}, "expected one line of text"),
    ("id", {**GOOD, "id": "a\u2028b"}, "expected one line of text"),
]


@pytest.mark.parametrize(("kind", "row", "reason"), BAD_ROWS)
def test_a_bad_row_is_listed_with_file_line_and_reason(tmp_path, kind, row, reason):
    path = tmp_path / "pool.jsonl"
    line = row if isinstance(row, bytes) else json.dumps(row).encode()
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=reason) as error:
        read_samples(path)
    assert f"{path}:2: " in str(error.value)

    kept = read_samples(path, bad_rows="skip")
    assert len(kept) == 1
    assert [(row.source, row.line, row.kind) for row in kept.bad_rows] == [(str(path), 2, kind)]
    assert kept.bad_row_counts == {kind: 1}


def test_twenty_bad_rows_are_listed_and_all_are_counted(tmp_path, write_lines):
    path = write_lines(tmp_path / "a.jsonl", *[{"n": i} for i in range(23)], GOOD)
    with pytest.raises(DataError) as error:
        read_samples(path)
    message = str(error.value)
    assert "got 23 bad beside 1 good" in message
    assert f"{path}:20:" in message
    assert f"{path}:21:" not in message
    assert "and 3 more" in message
    assert len(read_samples(path, bad_rows="skip").bad_rows) == 23


def test_an_id_used_twice_names_the_place_it_was_first(tmp_path, write_lines):
    first = write_lines(tmp_path / "a.jsonl", {"prompt": "p", "completion": "c", "id": "x"})
    write_lines(tmp_path / "b.jsonl", {"prompt": "other", "completion": "c", "id": "x"})
    with pytest.raises(DataError, match=rf"'x' as in {first}:1"):
        read_samples(tmp_path)
    assert read_samples(tmp_path, bad_rows="skip").bad_row_counts == {"duplicate": 1}


def test_the_same_chat_twice_is_a_duplicate_only_without_ids():
    with pytest.raises(DataError, match="same messages as rows 0:1"):
        read_samples([GOOD, GOOD])
    assert read_samples([{**GOOD, "id": "a"}, {**GOOD, "id": "b"}]).ids == ["a", "b"]


def test_rows_of_two_lists_in_memory_are_told_apart():
    with pytest.raises(DataError, match=r"rows 1:1: .* same messages as rows 0:1"):
        read_samples([[GOOD], [GOOD]])


def test_ids_are_kept_or_made_from_the_content():
    content = '[{"content":"p","role":"user"},{"content":"c","role":"assistant"}]'
    made = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    rows = [{**GOOD, "id": 7}, {**GOOD, "id": "seven"}, {**GOOD, "id": None}]
    assert read_samples(rows).ids == ["7", "seven", made]
    assert read_samples([{**GOOD, "key": "k"}], id_field="key").ids == ["k"]


def test_subtasks_come_from_a_column_or_from_file_names(tmp_path, write_lines):
    write_lines(tmp_path / "dates.jsonl", {**GOOD, "id": 1, "task": "a"}, {**GOOD, "id": 2, "task": 3})
    assert read_samples(tmp_path, subtask_field="task").subtasks == ["a", "3"]
    assert read_samples(tmp_path, subtask_from_file=True).subtasks == ["dates", "dates"]
    assert read_samples(tmp_path).subtasks == [None, None]


def test_a_row_without_the_asked_subtask_is_bad():
    with pytest.raises(DataError, match="task: expected a string or an integer, got nothing"):
        read_samples([GOOD], subtask_field="task")


def test_subtasks_from_file_names_need_files():
    with pytest.raises(ValueError, match="subtask_from_file: expected files"):
        read_samples([GOOD], subtask_from_file=True)
    with pytest.raises(ValueError, match="choose one of the two"):
        read_samples([GOOD], subtask_from_file=True, subtask_field="task")


def test_ids_restrict_and_order_and_limit_takes_the_first_of_them(tmp_path):
    rows = [{**GOOD, "id": name} for name in "abcd"]
    assert read_samples(rows, ids=["d", "b", "a"]).ids == ["d", "b", "a"]
    assert read_samples(rows, ids=["d", "b", "a"], limit=2).ids == ["d", "b"]
    assert read_samples(rows, limit=3).ids == ["a", "b", "c"]
    (tmp_path / "ids.txt").write_text("c\n\na\n")
    assert read_samples(rows, ids=tmp_path / "ids.txt").ids == ["c", "a"]


def test_rows_behind_the_limit_are_not_read(tmp_path, write_lines):
    path = write_lines(tmp_path / "a.jsonl", GOOD, {"broken": 1})
    assert len(read_samples(path, limit=1)) == 1


def test_unknown_and_repeated_ids_are_listed(tmp_path):
    rows = [{**GOOD, "id": name} for name in "ab"]
    with pytest.raises(DataError, match="got 2 that are not among them: 'x', 'y'"):
        read_samples(rows, ids=["a", "x", "y"])
    with pytest.raises(DataError, match="got 1 repeated: 'a'"):
        read_samples(rows, ids=["a", "a"])
    with pytest.raises(DataError, match="no_such_file"):
        read_samples(rows, ids=tmp_path / "no_such_file")
    with pytest.raises(DataError, match="got none"):
        read_samples(rows, ids=[])


def test_an_empty_pool_says_where_was_looked(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match=r"a\.jsonl:0: expected at least one row, got an empty file"):
        read_samples(tmp_path)
    with pytest.raises(DataError, match=r"at least one usable sample, got none in .*a\.jsonl \(0 rows\)"):
        read_samples(tmp_path, bad_rows="skip")


def test_the_digest_follows_content_ids_subtasks_and_order():
    def digest(*rows, **options):
        return read_samples(list(rows), **options).digest

    a, b = {**GOOD, "id": "a", "t": "x"}, {**GOOD, "id": "b", "t": "y"}
    assert digest(a, b) == digest({**a, "unused": 1}, b)
    others = [digest(b, a), digest(a), digest({**a, "completion": "d"}, b), digest(a, b, subtask_field="t")]
    assert len({digest(a, b), *others}) == 5


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"bad_rows": "ignore"}, ValueError),
        ({"limit": 0}, ValueError),
        ({"limit": 1.5}, TypeError),
        ({"ids": [1]}, TypeError),
    ],
)
def test_wrong_options_are_refused(options, error):
    with pytest.raises(error, match=f"^{next(iter(options))}: expected"):
        read_samples([GOOD], **options)
