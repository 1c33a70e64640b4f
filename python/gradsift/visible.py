"""Text of unknown origin, made fit to be shown: nothing in it acts on a terminal or a page, and nothing is hidden."""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1; line separators and annotation marks; halves of surrogate pairs; code points that are
# no characters; and what Unicode calls default ignorable: marks that change the direction of what follows, soft hyphen,
# zero-width space, fillers, tags, variation selectors beyond the first sixteen. Joiners of letters (U+200C, U+200D) and
# the first sixteen variation selectors stay: Persian and emoji need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def visible(text: str, limit: int | None = None) -> str:
    """`text` with its unseen characters named (``⟨U+202E⟩``), cut behind `limit` characters with a mark."""
    shown = text if limit is None else text[:limit]
    shown = _UNSEEN.sub(lambda m: f"⟨U+{ord(m[0]):04X}⟩", shown.replace("\r\n", "\n"))
    if limit is not None and len(text) > limit:
        shown += f" … [{len(text) - limit:,} more characters]"
    return shown
