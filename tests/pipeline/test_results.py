"""The table of a run, from figures to Markdown."""

from __future__ import annotations

from gradsift.pipeline.results import markdown, table_rows

RECORD = {
    "targets": {
        "skill": {
            "selected": {"loss": [1.0, 2.0], "exact_match": [0.5, 0.7]},
            "random": {"loss": [3.0], "exact_match": []},
            "base": {"loss": [4.0], "exact_match": [0.0]},
        }
    },
    "selections": {"selected": {"samples": 4, "make_up": {"x": 3, "y": 1}}},
    "pool": {"samples": 40, "make_up": {"x": 10, "y": 30}},
}


def test_rows_come_base_first_then_random_then_selections_with_spread() -> None:
    assert table_rows(RECORD) == [
        ("skill", "nothing (base model)", "1", "4.0000", "0.000"),
        ("skill", "random", "1", "3.0000", "–"),
        ("skill", "selection selected", "2", "1.5000 ± 0.7071", "0.600 ± 0.141"),
    ]


def test_the_report_says_how_much_more_often_a_source_was_taken_than_its_share() -> None:
    assert "| x | 3 | 10 | 3.0 |" in markdown(RECORD)
    assert "| y | 1 | 30 | 0.3 |" in markdown(RECORD)
