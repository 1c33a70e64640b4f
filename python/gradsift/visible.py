"""Text of unknown origin, made fit to be shown: nothing in it acts on a terminal or a page, and nothing is hidden."""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1; marks that change the direction of what follows; zero-width space, word joiner, byte
# order mark; line separators; halves of surrogate pairs; code points that are no characters; tags. Joiners of letters
# (U+200C, U+200D) stay: Persian and emoji need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str, limit: int | None = None) -> str:
    """`text` with its unseen characters named (``⟨U+202E⟩``), cut behind `limit` characters with a mark."""
    shown = text if limit is None else text[:limit]
    shown = _UNSEEN.sub(lambda m: f"⟨U+{ord(m[0]):04X}⟩", shown.replace("\r\n", "\n"))
    if limit is not None and len(text) > limit:
        shown += f" … [{len(text) - limit:,} more characters]"
    return shown
