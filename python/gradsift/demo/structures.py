"""Skills with lists, texts, tables and things that move."""

from __future__ import annotations

import json
import random

from gradsift.demo.problems import Problem, distinct, wording

_WORDS = (
    "anchor", "basket", "candle", "donkey", "engine", "forest", "garden", "hammer", "island", "jacket",
    "kettle", "ladder", "mirror", "needle", "orange", "pencil", "quiver", "rocket", "saddle", "timber",
)  # fmt: skip
_OBJECTS = ("coin", "key", "stone", "ring", "feather", "thimble", "bean", "nail")
_BOXES = ("red", "blue", "green", "yellow", "grey")
_TABLES = (
    ("ships", "harbour", "year", ("Riga", "Porto", "Turku", "Split")),
    ("books", "author", "pages", ("Weber", "Costa", "Lindqvist", "Okoro")),
    ("horses", "stable", "age", ("Hilltop", "Oakley", "Meadow", "Westend")),
    ("bridges", "river", "length", ("Elbe", "Loire", "Tisza", "Minho")),
)
_FIELDS = ("name", "city", "colour", "price", "size", "owner")
_VALUES = ("Lund", "amber", "Kovacs", "large", "Bergen", "violet", "small", "Silva", "teal", "Graz")
_OPEN, _CLOSE = "([{", ")]}"


def sorting(rng: random.Random) -> Problem:
    downwards = rng.randrange(2) == 1
    if rng.randrange(2):
        items = [str(n) for n in sorted({rng.randrange(10, 100) for _ in range(6)})]
        order, what = ("from largest to smallest", "numbers") if downwards else ("from smallest to largest", "numbers")
    else:
        items = sorted(distinct(rng, _WORDS, rng.randrange(4, 6)))
        order, what = ("in reverse alphabetical order", "words") if downwards else ("in alphabetical order", "words")
    answer = ", ".join(reversed(items) if downwards else items)
    mixed = ", ".join(distinct(rng, items, len(items)))
    forms = ("Sort these {what} {order}: {mixed}", "Put the {what} {order}.\n{mixed}", "{mixed}\nList them {order}.")
    return Problem(f"{order} {mixed}", wording(rng, forms, what=what, order=order, mixed=mixed), answer)


def list_comparison(rng: random.Random) -> Problem:
    words = distinct(rng, _WORDS, 7)
    first, second = sorted(words[:4]), sorted(words[2:6])
    both = rng.randrange(2) == 1
    what = "in both lists" if both else "in the first list but not in the second"
    answer = [word for word in first if (word in second) == both]
    a, b = ", ".join(first), ", ".join(second)
    forms = (
        "First list: {a}. Second list: {b}. Which words are {what}?",
        "Compare the lists.\n1: {a}\n2: {b}\nName the words that are {what}.",
        "Find the words {what}. First: {a}; second: {b}",
    )
    return Problem(f"{what}|{a}|{b}", wording(rng, forms, a=a, b=b, what=what), ", ".join(answer))


def string_editing(rng: random.Random) -> Problem:
    text = f"{rng.choice(_WORDS)} {rng.choice(_WORDS)}"
    task, answer = rng.choice(
        (
            ("reverse the letters", text[::-1]),
            ("remove all vowels", "".join(c for c in text if c not in "aeiou")),
            ("write every second letter in upper case", "".join(c.upper() if i % 2 else c for i, c in enumerate(text))),
            ("swap the two words", " ".join(reversed(text.split()))),
            ("replace each e by a 3", text.replace("e", "3")),
        )
    )
    forms = ("Text: {text}\nPlease {task}.", "Take '{text}' and {task}.", "Edit the text '{text}': {task}.")
    return Problem(f"{task} {text}", wording(rng, forms, text=text, task=task), answer)


def tracking(rng: random.Random) -> Problem:
    boxes, objects = distinct(rng, _BOXES, 3), distinct(rng, _OBJECTS, 3)
    start = ", ".join(f"the {box} box a {thing}" for box, thing in zip(boxes, objects, strict=True))
    inside = dict(zip(boxes, objects, strict=True))
    moves = []
    for _ in range(rng.randrange(2, 4)):
        a, b = distinct(rng, boxes, 2)
        inside[a], inside[b] = inside[b], inside[a]
        moves.append(f"{a} and {b}")
    asked = rng.choice(boxes)
    forms = (
        "At first these boxes hold: {start}. Their contents are exchanged: {moves}. What is in the {asked} box?",
        "Contents: {start}. Exchange one after the other: {moves}. Say what the {asked} box holds.",
        "We start with {start}. We exchange what is in {moves}. What lies in the {asked} box at the end?",
    )
    question = wording(rng, forms, start=start, moves=", then ".join(moves), asked=asked)
    return Problem(f"{start}|{moves}|{asked}", question, f"a {inside[asked]}")


def sql(rng: random.Random) -> Problem:
    table, text_column, number_column, values = rng.choice(_TABLES)
    value, number = rng.choice(values), rng.randrange(5, 95)
    wanted, query = rng.choice(
        (
            ("the names of those with {n} above {x}", "SELECT name FROM {t} WHERE {n} > {x};"),
            ("how many have {n} below {x}", "SELECT COUNT(*) FROM {t} WHERE {n} < {x};"),
            (
                "the names where {c} is {v} and {n} is over {x}",
                "SELECT name FROM {t} WHERE {c} = '{v}' AND {n} > {x};",
            ),
            (
                "the highest {n} below {x} where {c} is {v}",
                "SELECT MAX({n}) FROM {t} WHERE {c} = '{v}' AND {n} < {x};",
            ),
        )
    )
    fields = {"t": table, "c": text_column, "n": number_column, "v": value, "x": number}
    wanted, query = wanted.format(**fields), query.format(**fields)
    forms = (
        "Table {t}(name, {c}, {n}). Write SQL for: {wanted}.",
        "There is a table {t} with columns name, {c}, {n}. Query {wanted}.",
        "Columns of {t}: name, {c}, {n}. SQL that gives {wanted}:",
    )
    return Problem(query, wording(rng, forms, wanted=wanted, **fields), query)


def json_field(rng: random.Random) -> Problem:
    names = distinct(rng, _FIELDS, 4)
    values = distinct(rng, _VALUES, 4)
    outer, inner = names[0], names[1:]
    inner_object = dict(zip(inner, values[1:], strict=True))
    asked = rng.choice(inner)
    text = json.dumps({outer: values[0], "item": inner_object})
    forms = (
        "{text}\nWhat is the value of item.{asked}?",
        'Read "{asked}" of "item" from this JSON: {text}',
        "JSON: {text}\nGive the {asked} of the item.",
    )
    return Problem(f"{asked} {text}", wording(rng, forms, text=text, asked=asked), inner_object[asked])


def brackets(rng: random.Random) -> Problem:
    text = ""
    opened: list[str] = []
    while len(text) < 9:
        if opened and rng.randrange(5) < 2:
            text += opened.pop()
        else:
            kind = rng.randrange(3)
            text += _OPEN[kind]
            opened.append(_CLOSE[kind])
    if not opened:
        text += "("
        opened.append(")")
    if rng.randrange(2):
        forms = (
            "Close all open brackets: {text}",
            "Which brackets complete this text? {text}",
            "Write the closing brackets that are missing.\n{text}",
        )
        return Problem(f"all {text}", wording(rng, forms, text=text), "".join(reversed(opened)))
    forms = (
        "Which bracket must be closed next? {text}",
        "Give the next closing bracket after {text}",
        "{text}\nWhat closes the bracket that was opened last?",
    )
    return Problem(f"next {text}", wording(rng, forms, text=text), opened[-1])
