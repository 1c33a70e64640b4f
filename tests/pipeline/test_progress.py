"""What a person or a log is told while a step runs."""

from __future__ import annotations

import io

import pytest

from gradsift.pipeline.progress import LineReporter, TerminalReporter, duration


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_tell_rate_and_time_left_and_the_end() -> None:
    lines: list[str] = []
    reporter = LineReporter(lines.append, seconds=0.0)
    with reporter.task("pool", 10, "samples") as advance:
        advance(4)
        advance(6)
    assert lines[0].startswith("pool: 4/10 samples, ")
    assert lines[0].endswith(" left")
    assert lines[1].startswith("pool: 10/10 samples in ")
    assert len(lines) == 2


def test_what_was_there_before_counts_for_the_bar_and_not_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradsift.pipeline import progress

    clock = iter([0.0, 10.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    with LineReporter(lines.append, seconds=1).task("pool", 1000, "samples", done=900) as advance:
        advance(10)
    assert lines[0] == "pool: 910/1000 samples, 1.00 a second, 1 min 30 s left"


def test_lines_are_not_written_more_often_than_asked() -> None:
    lines: list[str] = []
    with LineReporter(lines.append, seconds=3600).task("pool", 100, "samples") as advance:
        for _ in range(100):
            advance(1)
    assert len(lines) == 1


def test_an_interrupted_task_does_not_claim_to_be_done() -> None:
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), LineReporter(lines.append).task("pool", 10, "samples"):
        raise KeyboardInterrupt
    assert lines == []


def test_the_terminal_bar_shows_count_and_title() -> None:
    from rich.console import Console

    screen = io.StringIO()
    reporter = TerminalReporter(Console(file=screen, force_terminal=True, width=120))
    reporter.say("a [line] with brackets")
    with reporter.task("pool", 10, "samples") as advance:
        advance(10)
    text = screen.getvalue()
    assert "a [line] with brackets" in text
    assert "10/10" in text
