"""Skills with numbers: word problems, units, dates, Roman numerals."""

from __future__ import annotations

import datetime
import random

from gradsift.demo.problems import Problem, wording

_NAMES = ("Nora", "Emil", "Rosa", "Jonas", "Mina", "Otto", "Livia", "Paul")
_THINGS = ("pens", "shells", "stamps", "marbles", "apples", "coins", "buttons", "cards")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_UNITS = (
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("kilograms", "grams", 1000),
    ("litres", "millilitres", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("weeks", "days", 7),
    ("days", "hours", 24),
    ("dozens", "pieces", 12),
)
_ROMAN = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)


def one_step(rng: random.Random) -> Problem:
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    a, b = rng.randrange(20, 90), rng.randrange(3, 20)
    if rng.randrange(2):
        forms = (
            "{name} has {a} {things} and finds {b} more. How many {things} does {name} have now?",
            "There are {a} {things} in {name}'s box. {b} are added. How many are in the box?",
            "{name} collected {a} {things} in spring and {b} in summer. How many {things} is that together?",
        )
        sign, result = "+", a + b
    else:
        forms = (
            "{name} has {a} {things} and gives {b} away. How many {things} are left?",
            "Of {a} {things}, {name} loses {b}. How many {things} remain?",
            "{name} had {a} {things} and sold {b} of them. How many {things} does {name} still have?",
        )
        sign, result = "-", a - b
    question = wording(rng, forms, name=name, things=things, a=a, b=b)
    return Problem(f"{a}{sign}{b}", question, f"{a} {sign} {b} = {result}. The answer is {result}.")


def two_steps(rng: random.Random) -> Problem:
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    bags, each, more = rng.randrange(2, 10), rng.randrange(3, 13), rng.randrange(2, 21)
    forms = (
        "{name} buys {bags} bags with {each} {things} each and then gets {more} more. How many {things} in all?",
        "Each of {bags} boxes holds {each} {things}, and {more} {things} lie beside them. How many are there?",
        "{name} fills {bags} rows with {each} {things} and has {more} {things} to spare. How many {things} are there?",
    )
    product = bags * each
    total = product + more
    answer = f"{bags} * {each} = {product}. {product} + {more} = {total}. The answer is {total}."
    question = wording(rng, forms, name=name, things=things, bags=bags, each=each, more=more)
    return Problem(f"{bags}*{each}+{more}", question, answer)


def units(rng: random.Random) -> Problem:
    large, small, factor = rng.choice(_UNITS)
    n = rng.randrange(2, 90)
    forms = (
        "Convert {n} {large} to {small}.",
        "How many {small} are {n} {large}?",
        "Write {n} {large} in {small}.",
    )
    return Problem(f"{n} {large}", wording(rng, forms, n=n, large=large, small=small), f"{n * factor} {small}")


def dates(rng: random.Random) -> Problem:
    if rng.randrange(2):
        day, n = rng.randrange(7), rng.randrange(2, 61)
        forms = (
            "Today is {day}. Which day of the week will it be in {n} days?",
            "Which weekday comes {n} days after a {day}?",
            "If it is {day} now, what day is it {n} days from now?",
        )
        question = wording(rng, forms, day=_WEEKDAYS[day], n=n)
        return Problem(f"{day}+{n}", question, _WEEKDAYS[(day + n) % 7])
    start = datetime.date(2023, 1, 1) + datetime.timedelta(days=rng.randrange(300))
    n = rng.randrange(2, 41)
    forms = (
        "Which date is {n} days after {start}?",
        "Add {n} days to {start}.",
        "A parcel sent on {start} takes {n} days. On which date does it arrive?",
    )
    question = wording(rng, forms, n=n, start=start.isoformat())
    return Problem(f"{start}+{n}", question, (start + datetime.timedelta(days=n)).isoformat())


def roman(rng: random.Random) -> Problem:
    n = rng.randrange(1, 1000)
    numeral, rest = "", n
    for value, letters in _ROMAN:
        numeral += letters * (rest // value)
        rest %= value
    if rng.randrange(2):
        forms = ("Write {n} as a Roman numeral.", "What is {n} in Roman numerals?", "Roman numeral for {n}:")
        return Problem(str(n), wording(rng, forms, n=n), numeral)
    forms = ("Which number is the Roman numeral {r}?", "Write {r} in digits.", "Read this Roman numeral: {r}")
    return Problem(numeral, wording(rng, forms, r=numeral), str(n))
