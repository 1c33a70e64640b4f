"""The tables of docs/performance.md, one function a group of results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Run = dict[str, Any]


def table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def machine(topics: dict[str, dict[str, Run]]) -> str:
    """Processor, libraries and commits; of the newest run where runs differ."""
    runs = [run for groups in topics.values() for run in groups.values()]
    runs.sort(key=lambda run: run["date"])
    about, software = runs[-1]["machine"], runs[-1]["software"]
    caches = ", ".join(f"{level} {size}" for level, size in about["caches"].items())
    merged = {name: version for run in runs for name, version in run["software"]["versions"].items()}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(merged.items()))
    commits = sorted({_commit(run) for run in runs})
    lines = [
        f"- {about['cpu']}; {about['cores']} cores; {', '.join(about['isa'])}; {caches}; {about['memory_gib']} GiB; "
        f"{about['system']}",
        f"- {versions}",
        f"- NumPy multiplies through {software['numpy_blas']}; torch has "
        f"{', '.join(software['torch_libraries'])} and {software['torch_threads']} threads; our kernels run "
        f"{software['our_isa']}",
        f"- measured on {', '.join(sorted({run['date'] for run in runs}))}, commits {', '.join(commits)}",
    ]
    return "\n".join(lines) + "\n"


def _commit(run: Run) -> str:
    return run["commit"]["id"] + (" with changes" if run["commit"]["dirty"] else "")


def _conditions(run: Run) -> str:
    """What else the machine was at, as far as that was recorded."""
    load = run.get("load")
    said = f"Load {load['before']} before, {load['after']} after" if load else "Load not recorded"
    return f"{said}; {run['note']}." if "note" in run else f"{said}."


def of_topic(topic: str, groups: dict[str, Run]) -> list[str]:
    parts = []
    for group, (title, render) in TABLES[topic].items():
        if group in groups:
            run = groups[group]
            parts.append(f"### {title}\n\n{_conditions(run)} `{run['command']}`, commit {_commit(run)}:\n")
            parts.append(render(run["cases"]))
    return parts


def _ratios(cases: list[Run]) -> str:
    """A row for each (d_out, d_in), a column for each number of tokens: ratio, our rate and theirs, who they were."""
    shapes: dict[str, dict[str, Run]] = {}
    for case in cases:
        shape, tokens, _ = case["case"].split()
        shapes.setdefault(shape, {})[tokens] = case
    columns = list(dict.fromkeys(case["case"].split()[1] for case in cases))
    rows: list[list[object]] = [[f"`{shape}`", *(_cell(by.get(t)) for t in columns)] for shape, by in shapes.items()]
    said = "Ratio of times (our GF/s : theirs, through what); T is tokens a sample.\n\n"
    return said + table(["d_out × d_in", *(f"T = {t[1:]}" for t in columns)], rows)


def _cell(case: Run | None) -> str:
    if case is None:
        return ""
    path = case["path"].split(":")[0].replace("brg_matmul", "").strip()
    return f"{case['ratio']:.2f} ({case['ours_gflops']:.0f} : {case['peer_gflops']:.0f}, {path})"


def _as_it_comes(cases: list[Run]) -> str:
    rows = [
        [
            f"`{c['case']}`",
            f"{c['ratio']:.2f}",
            f"{c['default_gflops']:.0f}, {c['path']}",
            f"{c['best_gflops']:.0f}, {c['best']}",
        ]
        for c in cases
    ]
    said = (
        'torch\'s float32 product as it comes, to the best of the others: that much of "faster than torch" is the '
        "library torch was built with (MKL, which gives AMD processors a slower path than Intel's).\n\n"
    )
    return said + table(["shape", "times as slow", "torch, GF/s", "best, GF/s"], rows)


def _gammas(cases: list[Run]) -> str:
    kinds = list(cases[0]["ratios"])
    rows = [[f"`{c['case']}`", *(f"{c['ratios'][kind]:.2f}" for kind in kinds)] for c in cases]
    return "Time to that of `sgd`.\n\n" + table(["shape", *kinds], rows)


def _speedups(cases: list[Run]) -> str:
    rows = [[f"`{c['case']}`", f"{c['speedup']:.2f}", c["one_ms"]["median"], c["two_ms"]["median"]] for c in cases]
    return table(["shape", "times as fast", "one thread, ms", "two threads, ms"], rows)


def _columns(*columns: tuple[str, Callable[[Run], object]]) -> Callable[[list[Run]], str]:
    def render(cases: list[Run]) -> str:
        rows = [[case["case"], *(value(case) for _, value in columns)] for case in cases]
        return table(["case", *(head for head, _ in columns)], rows)

    return render


def _times(case: Run) -> str:
    return ", ".join(f"{name} {times}" for name, times in case["times_ours"].items())


def _each_ms(case: Run) -> str:
    return ", ".join(f"{name} {ms}" for name, ms in case["ms"].items())


def _distortions(cases: list[Run]) -> str:
    families = [key for key in cases[0] if key not in ("case", "ms_per_row", "seeds")]
    rows = [[c["case"], c["ms_per_row"], *(c[family] for family in families), c["seeds"]] for c in cases]
    said = (
        "131,072 entries to 8,192 numbers, 256 rows at once, measured in full. Error: RMSE of the cosines of all pairs "
        "× √8192; dense theory says 0.7 to 1, less is better.\n\n"
    )
    return said + table(["projection", "ms a row", *families, "seeds"], rows)


def _rates(cases: list[Run]) -> str:
    names = list(dict.fromkeys(name for case in cases for name in case["samples_per_s"]))
    rows = [[case["case"], *(case["samples_per_s"].get(name, "") for name in names)] for case in cases]
    c = cases[0]
    said = (
        f"Samples a second; {c['weights']}, lengths {c['lengths']}; {c['samples']} samples a round, {c['tokens']} "
        f"tokens ({c['padded_tokens']} padded), {c['label_tokens']} label tokens, {c['batches']} batches.\n\n"
    )
    return said + table(["case", *names], rows) + _notes(cases)


def _notes(cases: list[Run]) -> str:
    lines = [
        f"- {c['case']}: {c['to_less']} × LESS ({c['to_less_without_projection']} × without its projection; projector: "
        f"{c['less_projection_how']}), {c['to_user']} × the best user's ({c['user']})"
        for c in cases
        if "to_less" in c
    ]
    lines += [
        f'- {c["case"]}: torch\'s products at precision "{c["precision"]}"; "unasked" is what torch takes by itself'
        for c in cases
        if "precision" in c
    ]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _memory(cases: list[Run]) -> str:
    rows = [
        [c["case"], c["tokens_in_batch"], c["samples_in_batch"], c["plain_mib"], c["ours_mib"], c["above_plain_mib"],
         c["gradients_mib"], f"{c['plain_half_mib']} : {c['ours_half_mib']}"]
        for c in cases
    ]  # fmt: skip
    return table(
        ["case", "tokens", "samples", "plain, MiB", "ours, MiB", "ours above plain", "the batch's gradients would be",
         "half a batch, plain : ours"],
        rows,
    )  # fmt: skip


TABLES: dict[str, dict[str, tuple[str, Callable[[list[Run]], str]]]] = {
    "project_linear": {
        "fp32_adam_to_gemm": ("`project_linear`, fp32, exact Adam, to the best product", _ratios),
        "bf16_adam_to_gemm": ("`project_linear`, bf16, exact Adam, to oneDNN's product", _ratios),
        "torch_as_it_comes": ("torch as it comes", _as_it_comes),
        "gamma_to_sgd": ("`project_linear`, every Γ", _gammas),
        "two_threads_to_one": ("`project_linear`, two threads", _speedups),
    },
    "project_rows": {
        "from_memory_to_read": (
            "`project_rows` from memory",
            _columns(
                ("share of the read", lambda c: c["share"]),
                ("ours, GB/s", lambda c: c["ours_gb_per_s"]),
                ("read, GB/s", lambda c: f"{c['read_gb_per_s']} ({c['reader']})"),
                ("ours, ms", lambda c: c["ours_ms"]["median"]),
            ),
        ),
        "from_cache": (
            "`project_rows` from the cache, one thread",
            _columns(
                ("numbers a ns", lambda c: c["numbers_per_ns"]),
                ("with Adam", lambda c: c["adam_numbers_per_ns"]),
                ("ms", lambda c: c["sgd_ms"]["median"]),
            ),
        ),
        "gamma_to_sgd": ("`project_rows`, every Γ (each reads two moments as well, sign apart)", _gammas),
        "two_threads_to_one": ("`project_rows`, two threads", _speedups),
        "torch_sjlt_to_ours": (
            "`project_rows` and torch's SJLT",
            _columns(
                ("times as fast", lambda c: c["times_faster"]),
                ("ms", lambda c: ", ".join(f"{name} {ms}" for name, ms in c["ms"].items())),
            ),
        ),
        "dense_and_sparse_peers_to_ours": (
            "`project_rows`, scikit-learn and traker",
            _columns(
                ("ours, ms", lambda c: c["ours_ms"]),
                ("scikit-learn, ms", lambda c: f"{c['sklearn_ms']} and {c['sklearn_fit_s']} s to fit"),
                ("traker, s", lambda c: f"{c['traker_s']} ({c['traker_how']})"),
                ("times as fast", lambda c: f"{c['sklearn_times_ours']}, {c['traker_times_ours']}"),
            ),
        ),
        "distortion_beside_time": ("Distortion beside time", _distortions),
    },
    "score_rows": {
        "to_floor": (
            "`score_rows` on rows of floats, two threads",
            _columns(
                ("times the floor", lambda c: c["to_floor"]),
                ("targets in bfloat16", lambda c: c.get("rounded_to_floor", "")),
                ("ms", lambda c: c["ours_ms"]["median"]),
                ("one read, ms", lambda c: c["read_ms"]),
                ("product, ms", lambda c: c["product_ms"]),
            ),
        ),
        "peers_to_ours": ("bfloat16 rows, others, two threads", _columns(("times our time", _times), ("ms", _each_ms))),
    },
    "score_quantised": {
        "to_floor": (
            "`score_rows` on quantised rows, two threads",
            _columns(
                ("times the floor", lambda c: c["to_floor"]),
                ("ms", lambda c: c["ours_ms"]["median"]),
                ("one read, ms", lambda c: c["read_ms"]),
                ("int8 product, ms", lambda c: c["product_ms"]),
                ("million rows a s", lambda c: round(c["rows_per_s"] / 1e6, 2)),
            ),
        ),
        "bits_to_int8": (
            "`score_rows`, rows a second by bits",
            _columns(
                ("4 bits to 8", lambda c: c["int4_times_int8"]),
                ("1 bit to 8", lambda c: c["int1_times_int8"]),
                ("ms", lambda c: ", ".join(f"{name} {ms}" for name, ms in c["ms"].items())),
            ),
        ),
        "peers_to_ours": ("Quantised rows, others", _columns(("times our time", _times), ("ms", _each_ms))),
        "faiss_to_ours": ("1-bit rows, faiss", _columns(("times our time", _times), ("ms", _each_ms))),
    },
    "select": {
        "from_the_page_cache": (
            "`select`, 49,152 rows of a store in the page cache",
            _columns(("times our time", _times), ("ms", _each_ms)),
        ),
        "from_the_disk": (
            "`select` from the disk",
            _columns(
                ("times reading", lambda c: c["to_read"]),
                ("ms", _each_ms),
                ("disk, GB/s", lambda c: c["read_gb_per_s"]),
            ),
        ),
        "memory": ("Memory of `select` beside rows and targets", _columns(("MiB", lambda c: c["extra_mib"]))),
    },
    "collector": {
        "bf16": ("Collecting, bf16", _rates),
        "fp32": ("Collecting, fp32", _rates),
        "full_parameters": ("Collecting for all linear layers", _rates),
        "memory": ("Memory of collecting", _memory),
    },
}
