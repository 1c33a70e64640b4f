"""Text that is shown does nothing and hides nothing."""

import sys
import unicodedata

import pytest

from gradsift.visible import visible


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain\ttext\nof two lines", "plain\ttext\nof two lines"),
        ("\x1b[31mred\x07\x00", "⟨U+001B⟩[31mred⟨U+0007⟩⟨U+0000⟩"),
        ("a\r\nb\rc", "a\nb⟨U+000D⟩c"),
        ("\x7f\x85\x9b", "⟨U+007F⟩⟨U+0085⟩⟨U+009B⟩"),
        ("evil\u202etxt.exe", "evil⟨U+202E⟩txt.exe"),
        ("half \ud83d", "half ⟨U+D83D⟩"),
        ("\U000e0041\ufeff\u200b", "⟨U+E0041⟩⟨U+FEFF⟩⟨U+200B⟩"),
        ("a\u00adb\u3164c\u034fd", "a⟨U+00AD⟩b⟨U+3164⟩c⟨U+034F⟩d"),
        ("bytes in selectors \U000e0100\U000e01ef", "bytes in selectors ⟨U+E0100⟩⟨U+E01EF⟩"),
        ("\u2764\ufe0f 👩\u200d🚀 می\u200cخواهم العربية", "\u2764\ufe0f 👩\u200d🚀 می\u200cخواهم العربية"),
    ],
)
def test_what_cannot_be_seen_is_named(text, want):
    assert visible(text) == want


def test_no_control_character_is_left():
    everything = visible("".join(map(chr, range(sys.maxunicode + 1))))
    left = {c for c in everything if unicodedata.category(c) in ("Cc", "Cs") or unicodedata.bidirectional(c) in BIDI}
    assert left == {"\t", "\n"}


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_long_text_is_cut_with_a_mark_that_says_how_much():
    assert visible("x" * 1_000_000, 10) == "x" * 10 + " … [999,990 more characters]"
    assert visible("x" * 10, 10) == "x" * 10
