from __future__ import annotations

import hashlib
import json
import re

import pytest

from gradsift.data import read_samples
from gradsift.demo import SKILLS, generate, write_demo_data
from gradsift.demo.skills import SPLITS, TARGETS


def questions(records):
    return {record["messages"][0]["content"] for record in records}


def test_there_are_at_least_twelve_skills():
    assert len(SKILLS) >= 12
    assert set(TARGETS) <= set(SKILLS)


@pytest.mark.parametrize("skill", SKILLS)
def test_records_are_chats_with_unique_ids_and_questions(skill):
    records = generate(skill, 100, seed=0, split="pool")
    samples = read_samples(records)
    assert len(samples) == 100
    assert {record["dataset"] for record in records} == {skill}
    assert len(questions(records)) == 100
    assert all(20 <= len(question) <= 220 for question in questions(records))


@pytest.mark.parametrize("skill", SKILLS)
def test_parts_share_no_question_whatever_the_seed(skill):
    parts = {
        split: {q for seed in range(3) for q in questions(generate(skill, n, seed, split))}
        for split, n in (("pool", 120), ("fewshot", 10), ("test", 60))
    }
    assert not parts["pool"] & parts["test"]
    assert not parts["pool"] & parts["fewshot"]
    assert not parts["test"] & parts["fewshot"]


def test_the_parts_are_disjoint_tenths():
    assert sorted(tenth for part in SPLITS.values() for tenth in part) == list(range(10))


@pytest.mark.parametrize("skill", SKILLS)
def test_wordings_differ(skill):
    starts = {record["messages"][0]["content"][:6] for record in generate(skill, 60, seed=0, split="pool")}
    assert len(starts) >= 3


def test_the_same_arguments_give_the_same_data_on_every_python():
    records = [record for skill in SKILLS for record in generate(skill, 12, seed=3, split="test")]
    digest = hashlib.sha256(json.dumps(records).encode()).hexdigest()
    assert digest == "4ffcb8f3b954464df497559ee5dfcb581a4d18496a904773b77d5c26a53ccc66"
    assert generate("sorting", 5, 0, "pool") != generate("sorting", 5, 1, "pool")


def test_other_seeds_give_other_problems():
    assert questions(generate("sorting", 20, 0, "pool")) != questions(generate("sorting", 20, 1, "pool"))


def worked(text):
    """Checks each step of a worked answer and returns the last number."""
    for a, sign, b, result in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", text):
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(result)
    return int(re.search(r"The answer is (\d+)\.$", text)[1])


@pytest.mark.parametrize("skill", ["arithmetic", "two_step_arithmetic"])
def test_worked_answers_compute_from_the_numbers_of_the_question(skill):
    for record in generate(skill, 60, seed=1, split="test"):
        question, answer = (message["content"] for message in record["messages"])
        numbers = [int(n) for n in re.findall(r"\d+", question)]
        total = worked(answer)
        possible = (
            {sum(numbers), numbers[0] - numbers[-1]} if len(numbers) == 2 else {numbers[0] * numbers[1] + numbers[2]}
        )
        assert total in possible


def test_commands_follow_the_language():
    verbs = {"plim": "LIFT", "gorta": "PUSH", "sefu": "DROP", "nalk": "SPIN"}

    def actions(phrase):
        verb, colour, *repeat = phrase.split()
        return [f"{verbs[verb]} {colour}"] * {"": 1, "oi": 2, "ettu": 3}["".join(repeat)]

    for record in generate("commands", 60, seed=1, split="test"):
        question, answer = (message["content"] for message in record["messages"])
        command = re.search(r"(plim|gorta|sefu|nalk)[^\n]*", question)[0]
        if " una " in command:
            second, first = command.split(" una ")
            want = actions(first) + actions(second)
        else:
            want = [action for phrase in command.split(" kep ") for action in actions(phrase)]
        assert answer == ", ".join(want)


def test_each_made_up_label_has_examples_in_every_part():
    for split, n in (("pool", 60), ("test", 60)):
        labels = [record["messages"][1]["content"] for record in generate("made_up_labels", n, 0, split)]
        assert set(labels) == {"blon", "trevi", "skag", "mund", "quarn"}


def test_brackets_are_closed():
    for record in generate("brackets", 60, seed=0, split="pool"):
        question, answer = (message["content"] for message in record["messages"])
        text = re.search(r"[()\[\]{}]+", question)[0]
        whole = text + answer
        for _ in range(len(whole)):
            whole = whole.replace("()", "").replace("[]", "").replace("{}", "")
        closes_all = not whole
        closes_next = "next" in question or "last" in question
        assert closes_all or (closes_next and not set(whole) & set(")]}"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("juggling", 1, 0, "pool"), "skill: expected one of arithmetic"),
        (("dates", 1, 0, "train"), "split: expected one of pool"),
        (("dates", -1, 0, "pool"), "n: expected at least 0"),
        (("made_up_labels", 10_000, 0, "fewshot"), "n: expected at most"),
    ],
)
def test_wrong_arguments_are_refused(arguments, reason, monkeypatch):
    monkeypatch.setattr("gradsift.demo.skills._DRAWS_PER_PROBLEM", 2)
    with pytest.raises(ValueError, match=reason):
        generate(*arguments)


def test_the_files_hold_pool_and_targets_and_are_read_as_samples(tmp_path):
    files = write_demo_data(tmp_path, pool_per_skill=5, seed=0, n_fewshot=3, n_test=4)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in files.values()) == [
        "pool.jsonl",
        "targets/commands/fewshot.jsonl",
        "targets/commands/test.jsonl",
        "targets/made_up_labels/fewshot.jsonl",
        "targets/made_up_labels/test.jsonl",
    ]
    pool = read_samples(files["pool"], subtask_field="dataset")
    assert {skill: pool.subtasks.count(skill) for skill in SKILLS} == dict.fromkeys(SKILLS, 5)
    assert pool.subtasks != sorted(pool.subtasks, key=list(SKILLS).index)
    assert len(read_samples(files["commands/fewshot"])) == 3
    assert len(read_samples(files["commands/test"])) == 4
    first = {name: path.read_bytes() for name, path in files.items()}
    again = write_demo_data(tmp_path, pool_per_skill=5, seed=0, n_fewshot=3, n_test=4)
    assert {name: path.read_bytes() for name, path in again.items()} == first
