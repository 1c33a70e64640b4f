"""Writes golden_projection.json from the Python in docs/projection-spec.md: `python tests/ops/make_golden.py`.

The package is not imported: these vectors hold the page and the package to each other.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "projection-spec.md"
GOLDEN = HERE / "golden_projection.json"

# kat_vectors of Random123, philox4x32-10: counter, key, output; the third from the digits of pi.
PHILOX = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
NAMES = ["model.layers.0.self_attn.q_proj.lora_A.weight", "lm_head.weight", "größe.bias", "w"]
# Ragged in both directions, with a second chunk in each where that is small enough for plain Python.
CASES: list[dict[str, Any]] = [
    {"proj_dim": 256, "seed": 0, "kind": "xor", "nonzeros": 1, "shape": [5, 131]},
    {"proj_dim": 256, "seed": 2**64 - 1, "kind": "xor", "nonzeros": 4, "shape": [1, 300]},
    {"proj_dim": 1024, "seed": 7, "kind": "xor", "nonzeros": 1, "shape": [17, 257]},
    {"proj_dim": 1024, "seed": 7, "kind": "xor", "nonzeros": 4, "shape": [9, 129]},
    {"proj_dim": 8192, "seed": 2**40 + 5, "kind": "xor", "nonzeros": 1, "shape": [67, 130]},
    {"proj_dim": 8192, "seed": 2**40 + 5, "kind": "xor", "nonzeros": 4, "shape": [65, 3]},
    {"proj_dim": 16384, "seed": 3, "kind": "xor", "nonzeros": 1, "shape": [130, 40]},
    {"proj_dim": 16384, "seed": 3, "kind": "xor", "nonzeros": 4, "shape": [2, 1000]},
    {"proj_dim": 65536, "seed": 12345678901234567890, "kind": "xor", "nonzeros": 1, "shape": [3, 1153]},
    {"proj_dim": 65536, "seed": 12345678901234567890, "kind": "xor", "nonzeros": 4, "shape": [66, 7]},
    {"proj_dim": 256, "seed": 1, "kind": "rademacher", "nonzeros": 1, "shape": [3, 11]},
    {"proj_dim": 1024, "seed": 2**63, "kind": "rademacher", "nonzeros": 1, "shape": [7, 2]},
]


def page_code() -> dict[str, Any]:
    """What the Python block of the specification defines."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return names


def gradient(shape: list[int]) -> np.ndarray:
    i, j = np.indices(shape)
    return (7 * i + 5 * j + i * j) % 11 - 5


def digest(unscaled: np.ndarray) -> str:
    return hashlib.blake2b(np.rint(unscaled).astype("<i4").tobytes(), digest_size=16).hexdigest()


def golden() -> dict[str, Any]:
    page = page_code()
    cases = []
    for number, case in enumerate(CASES):
        spec = {"P": case["proj_dim"], **{k: case[k] for k in ("seed", "kind", "nonzeros")}}
        param, (d_out, d_in) = NAMES[number % len(NAMES)], case["shape"]
        corners = sorted({(i, j) for i in (0, 1, d_out // 2, d_out - 1) for j in (0, 1, 127, 128, d_in - 1)})
        columns = []
        for i, j in ((i, j) for i, j in corners if i < d_out and j < d_in):
            pairs = page["entry"](param, i, j, **spec)
            if case["kind"] == "rademacher":
                signs = [s for _, s in pairs]
                columns.append([i, j, [hex_words(signs[:128]), hex_words(signs[-128:])]])
            else:
                columns.append([i, j, [list(p) for p in pairs]])
        scale = case["proj_dim"] if case["kind"] == "rademacher" else case["nonzeros"]
        y = page["sketch"](param, gradient(case["shape"]), **spec) * np.sqrt(scale)
        cases.append({**case, "param": param, "columns": columns, "sketch_blake2b": digest(y)})
    philox = [{"counter": c, "key": k, "words": w} for c, k, w in PHILOX]
    ids = {n: f"{int.from_bytes(hashlib.blake2b(n.encode(), digest_size=8).digest(), 'little'):016x}" for n in NAMES}
    return {"version": 1, "philox": philox, "parameter_id": ids, "cases": cases}


def hex_words(signs: list[int]) -> str:
    """128 signs as the four words they were drawn from."""
    bits = [int(s < 0) for s in signs]
    return " ".join(f"{sum(b << n for n, b in enumerate(bits[32 * w : 32 * w + 32])):08x}" for w in range(4))


if __name__ == "__main__":
    text = json.dumps(golden(), ensure_ascii=False)
    # One case and one column a line, so that a difference can be read.
    text = (
        text.replace(', {"proj_dim"', ',\n  {"proj_dim"')
        .replace("]]], [", "]]],\n    [")
        .replace(']], "', ']],\n    "')
    )
    GOLDEN.write_text(text.replace(', "cases"', ',\n"cases"') + "\n", encoding="utf-8")
