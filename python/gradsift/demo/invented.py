"""Skills that no model can know beforehand: a command language, made-up labels, an invented grammar, a cipher."""

from __future__ import annotations

import random

from gradsift.demo.problems import Problem, wording

_VERBS = {"plim": "LIFT", "gorta": "PUSH", "sefu": "DROP", "nalk": "SPIN"}
_COLOURS = ("red", "blue", "green", "black", "white")
_REPEATS = {"": 1, " oi": 2, " ettu": 3}

# Label, then the parts of a sentence on its subject.
_SUBJECTS = {
    "blon": (
        ("The sky", "The wind", "This morning's fog", "The storm", "The rain"),
        ("will clear", "is getting stronger", "reached the coast", "kept us indoors", "came earlier than forecast"),
        ("over the hills", "by noon", "after a cold night", "in the north", "this week"),
    ),
    "trevi": (
        ("The soup", "My grandmother's bread", "This sauce", "The roast", "The cake"),
        ("needs more salt", "smells of garlic", "must simmer longer", "came out of the oven", "tastes of butter"),
        ("for the guests", "on Sundays", "before dinner", "with a little pepper", "again"),
    ),
    "skag": (
        ("The goalkeeper", "Our team", "The sprinter", "The coach", "The young boxer"),
        ("won the final", "trained hard", "lost by one point", "scored twice", "broke the record"),
        ("in the stadium", "before the break", "this season", "against the champions", "in overtime"),
    ),
    "mund": (
        ("The violinist", "The choir", "A quiet flute", "The old piano", "The drummer"),
        ("played a slow waltz", "was out of tune", "repeated the melody", "opened the concert", "lost the beat"),
        ("in the second act", "on stage", "at rehearsal", "to loud applause", "in a minor key"),
    ),
    "quarn": (
        ("The night train", "Our flight", "The ferry", "The tour bus", "The tired traveller"),
        ("left the border behind", "was two hours late", "reached the island", "missed a connection", "turned south"),
        ("with all the luggage", "on the first day", "without a ticket", "near the harbour", "at dawn"),
    ),
}

_STEMS = ("talo", "mirek", "susan", "bodu", "kelt", "ravi", "nopal", "ferin", "gudo", "lasek", "pimo", "werat")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS = ("tree", "lamp", "river", "cloud", "stone", "bread", "horse", "table", "green", "light", "paper", "north")


def commands(rng: random.Random) -> Problem:
    """A robot's language: verb, colour, repetition; ``kep`` joins in order, ``una`` puts the second part first."""
    first, second = _phrase(rng), _phrase(rng)
    joint = rng.choice(("", "kep", "kep", "una", "una"))
    if joint == "":
        command, actions = first
    elif joint == "kep":
        command, actions = f"{first[0]} kep {second[0]}", first[1] + second[1]
    else:
        command, actions = f"{first[0]} una {second[0]}", second[1] + first[1]
    forms = (
        "Translate the robot command into actions.\n\n{command}",
        "Which actions does the robot take on this command?\nCommand: {command}",
        "Robot command: {command}\nList the actions.",
    )
    return Problem(command, wording(rng, forms, command=command), ", ".join(actions))


def _phrase(rng: random.Random) -> tuple[str, list[str]]:
    verb, colour, repeat = rng.choice(list(_VERBS)), rng.choice(_COLOURS), rng.choice(list(_REPEATS))
    return f"{verb} {colour}{repeat}", [f"{_VERBS[verb]} {colour}"] * _REPEATS[repeat]


def made_up_labels(rng: random.Random) -> Problem:
    label = rng.choice(list(_SUBJECTS))
    sentence = " ".join(rng.choice(part) for part in _SUBJECTS[label]) + "."
    forms = (
        "Label the sentence.\n\n{sentence}",
        "Which label does this sentence get?\nSentence: {sentence}\nLabel:",
        "Classify: {sentence}",
    )
    return Problem(sentence, wording(rng, forms, sentence=sentence), label)


def invented_grammar(rng: random.Random) -> Problem:
    """Stems that end in a vowel take other endings than those that end in a consonant."""
    stem = rng.choice(_LETTERS[:20]) + rng.choice("aeiou") + rng.choice(_STEMS)
    vowel = stem[-1] in "aeiou"
    kind, word = rng.choice(
        (
            ("plural", stem + ("nki" if vowel else "onki")),
            ("past tense", "ge" + stem + ("ru" if vowel else "eru")),
            ("opposite", "val" + stem),
        )
    )
    forms = (
        "In the language Oru, give the {kind} of the word {stem}.",
        "Oru grammar: form the {kind} of '{stem}'.",
        "What is the {kind} of {stem} in Oru?",
    )
    return Problem(f"{kind} {stem}", wording(rng, forms, kind=kind, stem=stem), word)


def caesar(rng: random.Random) -> Problem:
    shift = rng.randrange(1, 6)
    plain = f"{rng.choice(_WORDS)} {rng.choice(_WORDS)}"
    moved = "".join(_LETTERS[(_LETTERS.index(c) + shift) % 26] if c in _LETTERS else c for c in plain)
    forms = (
        "Move each letter of '{plain}' forward by {shift} in the alphabet.",
        "Encode with a Caesar cipher, shift {shift}: {plain}",
        "Shift the letters by {shift}: {plain}",
    )
    return Problem(f"{shift} {plain}", wording(rng, forms, plain=plain, shift=shift), moved)
