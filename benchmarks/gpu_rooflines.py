"""What calls on a GPU must move and compute, and how long that takes at datasheet rates: computed, not measured."""

from __future__ import annotations

from dataclasses import dataclass

from performance_tables import table

# NVIDIA's datasheets, without sparsity: A100 80GB SXM, H100 SXM, and one GPU of an HGX B200. Bytes a second, then
# operations a second by the kind of number that is multiplied; a product of float32 may be three of tf32 parts.
CARDS = {
    "A100": (2.039e12, {"bf16": 312e12, "fp32": 19.5e12, "tf32x3": 156e12 / 3, "int8": 624e12}),
    "H100": (3.35e12, {"bf16": 989e12, "fp32": 67e12, "tf32x3": 494.5e12 / 3, "int8": 1979e12}),
    "B200": (7.7e12, {"bf16": 2250e12, "fp32": 75e12, "tf32x3": 1125e12 / 3, "int8": 4500e12}),
}
P = 8192
LAYERS = 32
# (d_out, d_in) of LoRA's A and B, r = 128, on q, k, v, o, gate, up and down of a 7B Llama.
SEVEN_B = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
LORA = [pair for d_out, d_in in SEVEN_B for pair in ((128, d_in), (d_out, 128))]


@dataclass(frozen=True)
class Call:
    """The bytes and operations that no implementation of a call can leave out."""

    op: str
    case: str
    bytes: float
    operations: float
    rate: str

    def seconds(self, card: str) -> tuple[float, str]:
        """The time at the card's rates, and which of the two it goes by."""
        bandwidth, rates = CARDS[card]
        moving, computing = self.bytes / bandwidth, self.operations / rates[self.rate]
        return max(moving, computing), "bytes" if moving >= computing else "operations"


def linear(d_out: int, d_in: int, samples: int, tokens: int, size: int) -> tuple[float, float]:
    """Bytes and operations of `project_linear` with Adam: tokens' both sides, m and v in float32 once, sketches."""
    read = samples * tokens * (d_in + d_out) * size + 2 * 4 * d_in * d_out
    return read + 4 * samples * P, 2.0 * samples * tokens * d_in * d_out


def calls() -> list[Call]:
    found = []
    for d_out, d_in, samples, tokens, kind in (
        (128, 4096, 16, 512, "bf16"),
        (4096, 128, 16, 512, "bf16"),
        (8, 4096, 16, 512, "bf16"),
        (4096, 4096, 16, 512, "bf16"),
        (4096, 4096, 16, 512, "fp32"),
    ):
        moved, computed = linear(d_out, d_in, samples, tokens, 2 if kind == "bf16" else 4)
        case = f"{d_out} × {d_in}, {samples} samples of {tokens} tokens, {kind}, Adam"
        found.append(Call("project_linear", case, moved, computed, "tf32x3" if kind == "fp32" else kind))
    whole = [linear(*shape, 16, 512, 2) for shape in LORA]
    moved, computed = (LAYERS * sum(part) for part in zip(*whole, strict=True))
    found.append(
        Call(
            "project_linear", "every LoRA matrix of a 7B model, r = 128, 16 × 512, bf16, Adam", moved, computed, "bf16"
        )
    )
    found.append(Call("project_rows", "8 × 10⁷ numbers, fp32, Adam", 10 * 4e7 + 8 * 4 * P, 0.0, "fp32"))
    rows = 1_000_000
    for name, bits, kind in (
        ("fp32", 32, "bf16"),
        ("bf16 or fp16", 16, "bf16"),
        ("8-bit", 8, "int8"),
        ("4-bit", 4, "int8"),
        ("1-bit", 1, "int8"),
    ):
        for columns in (10, 100):
            # Targets finer than the rows take more: how many planes is the kernels' choice, so one is counted here.
            case = f"10⁶ {name} rows of {P}, {columns} columns"
            found.append(Call("score_rows", case, rows * P * bits / 8, 2.0 * rows * P * columns, kind))
    found.append(Call("quantise", f"65,536 rows of {P} to 8 bits", 65536 * P * 5.0, 65536 * P * 13.0, "fp32"))
    return found


def section() -> str:
    """The part of docs/performance.md."""
    rows: list[list[object]] = []
    for call in calls():
        times = [call.seconds(card) for card in CARDS]
        rows.append(
            [f"`{call.op}`", call.case, f"{call.bytes / 1e6:,.0f}", f"{call.operations / 1e9:,.0f}"]
            + [f"{seconds * 1e3:.3g} ({by})" for seconds, by in times]
        )
    head = ["op", "call", "MB", "G operations", *(f"{card}, ms" for card in CARDS)]
    rates = "; ".join(
        f"{card} {bandwidth / 1e12:g} TB/s, "
        + ", ".join(f"{kind} {rate / 1e12:.4g} T/s" for kind, rate in by_kind.items())
        for card, (bandwidth, by_kind) in CARDS.items()
    )
    return (
        "## GPUs: computed, not measured\n\n"
        "The least bytes and operations of a call, and the longer of the two times they take at datasheet rates\n"
        f"({rates}).\nNo kernel is faster; `benchmarks/gpu_first_run.sh` measures how near ours come, and "
        "docs/results/gpu-*.md has the\ncards on which it ran.\n\n" + table(head, rows)
    )
