"""Bugs planted in kernels, each caught on the emulator: a test that cannot fail proves nothing."""

import re
import shutil
import signal

import pytest

ORDERS = ["forward", "reverse", "random"]
# The name of a bug: (the .cu, the text to replace, by what, the program, how it ends, what it says). Bugs that leave
# the sums whole and only change their order are seen by comparing the bits that the orders of warps give.
OTHER_BITS = "other bits in another order"
ROWS = "project_rows/project_rows.cu"
SCORES = "score_rows/score_rows.cu"
TOP = "score_rows/top_rows.cu"
CODES = "quantise/quantise.cu"
WRONG = r"FAILED .*: (at \(|expected errors|got )"
PLANTED = {
    "no barrier between drawing and reading": (
        ROWS,
        "    if (batches > 0) draw(0);\n    __syncthreads();",
        "    if (batches > 0) draw(0);",
        "cases_project_rows.py",
        (1, -signal.SIGSEGV),
        r"FAILED sketches|Segmentation fault",
    ),
    "no barrier before a buffer is drawn again": (
        ROWS,
        "% args.nonzeros == 0);\n        __syncthreads();",
        "% args.nonzeros == 0);\n        __syncwarp();",
        "cases_project_rows.py",
        (1, -signal.SIGSEGV),
        r"FAILED sketches|Segmentation fault",
    ),
    "a barrier that half of the block comes to": (
        ROWS,
        "    if (batches > 0) draw(0);\n    __syncthreads();",
        "    if (batches > 0) draw(0);\n    if (thread < 128) __syncthreads();",
        "cases_project_rows.py",
        (1,),
        r"__syncthreads at .*project_rows\.cu:\d+ while others wait at|__syncthreads .* has returned",
    ),
    "lines that belong to no one warp": (
        ROWS,
        "static_cast<int>(place / kLine) % kRowsWarps == warp",
        "(group / 32 + stream.lane) % kRowsWarps == warp",
        "cases_project_rows.py",
        (0,),
        OTHER_BITS,
    ),
    "runs of a warp that are not kept apart": (
        ROWS,
        "            __syncwarp();\n        }",
        "        }",
        "cases_project_rows.py",
        (0,),
        OTHER_BITS,
    ),
    "a vote that half of the warp is left out of": (
        ROWS,
        "__ballot_sync(kAllLanes,",
        "__ballot_sync(0xFFFFu,",
        "cases_project_rows.py",
        (1,),
        r"by a lane that its mask leaves out",
    ),
    "no edge of the columns": (
        ROWS,
        "raw[j] = j < left ? at[j] : typename Element::Type{}",
        "raw[j] = at[j]",
        "cases_project_rows.py",
        (1, -signal.SIGSEGV),
        r"FAILED sketches|Segmentation fault",
    ),
    "a wrong bit for a sign": (
        ROWS,
        "bits[a] = word >> (4 * (stream.lane % 8));",
        "bits[a] = word >> (4 * (stream.lane % 4));",
        "cases_project_rows.py",
        (1,),
        r"FAILED sketches: at \(0, \d+\): expected",
    ),
    "columns read before all have copied theirs": (
        SCORES,
        "__syncthreads();  // all see the columns",
        "__syncwarp();  // all see the columns",
        "cases_score_rows.py",
        (1,),
        WRONG,
    ),
    "one copy too few waited for": (
        SCORES,
        "wait_for_copies(args.stages - 2);",
        "wait_for_copies(args.stages - 1);",
        "cases_score_rows.py",
        (1,),
        WRONG,
    ),
    "rows in each other's lanes": (
        SCORES,
        "a[2 * m + 1][q][2 * h], a[2 * m][q][2 * h + 1]",
        "a[2 * m][q][2 * h + 1], a[2 * m + 1][q][2 * h]",
        "cases_score_rows.py",
        (1,),
        WRONG,
    ),
    "no end of the rows": (
        SCORES,
        "row < args.n ? args.row_bytes - byte : 0",
        "args.row_bytes - byte",
        "cases_score_rows.py",
        (-signal.SIGSEGV,),
        r"Segmentation fault",
    ),
    "all planes of a column weigh alike": (
        SCORES,
        "Rows::fold(sum, dots[m][j][e], weight)",
        "Rows::fold(sum, dots[m][j][e], 1.0f)",
        "cases_score_rows.py",
        (1,),
        WRONG,
    ),
    "the last of equal columns": (
        SCORES,
        "best.see(score, args.first_column + column);",
        "if (score >= best.score) best = {score, args.first_column + column};",
        "cases_score_rows.py",
        (1,),
        r"FAILED .*: best",
    ),
    "one row too many at the threshold": (
        TOP,
        "rank < of_key",
        "rank <= of_key",
        "cases_score_rows.py",
        (1,),
        r"FAILED top, tiny: rows",
    ),
    "the last of equal rows": (
        TOP,
        "mine == key && rank < of_key",
        "mine == key && rank >= 1",
        "cases_score_rows.py",
        (1,),
        r"FAILED top, tiny: rows",
    ),
    "a step of the transform before all have done the last": (
        CODES,
        "y[padded(first + k * h)] = v[k];\n    }\n    __syncthreads();",
        "y[padded(first + k * h)] = v[k];\n    }\n    __syncwarp();",
        "cases_quantise.py",
        (1,),
        r"FAILED .*: codes",
    ),
    "squares added in another order": (
        CODES,
        "int step = 1; step < 16; step *= 2",
        "int step = 8; step > 0; step /= 2",
        "cases_quantise.py",
        (1,),
        r"FAILED .*: norms",
    ),
    "halves rounded up": (
        CODES,
        "__float2int_rn(fminf(fmaxf(__fmul_rn(y, per_step), -largest), largest))",
        "static_cast<int>(floorf(fminf(fmaxf(__fmul_rn(y, per_step), -largest), largest) + 0.5f))",
        "cases_quantise.py",
        (1,),
        r"FAILED .*: codes",
    ),
}

pytestmark = pytest.mark.driver


@pytest.fixture
def planted(tmp_path, link):
    """A stand-in driver whose kernels have one bug."""

    def make(source, old, new):
        copy = tmp_path / "csrc"
        shutil.copytree(link.csrc, copy)
        text = (copy / source).read_text("utf-8")
        assert text.count(old) == 1, f"{source}: {old!r} stands there {text.count(old)} times"
        (copy / source).write_text(text.replace(old, new), "utf-8")
        return link(
            sorted((copy / source).parent.glob("*.cu")), "plain", tmp_path / "libcuda.so.1", copy, optimise="-O0"
        )

    return make


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_caught(bug, planted, program):
    source, old, new, name, ends, says = PLANTED[bug]
    driver = planted(source, old, new)
    bits = set()
    for order in ORDERS:
        done = program(driver, name, "tiny", GRADSIFT_EMULATOR_ORDER=order, GRADSIFT_EMULATOR_SEED="1")
        if says != OTHER_BITS and done.returncode != 0:
            assert done.returncode in ends, done.stdout + done.stderr
            assert re.search(says, done.stdout + done.stderr), done.stdout + done.stderr
            return
        assert done.returncode == 0, done.stdout + done.stderr
        bits.add(re.search(r"^floats (\w+)$", done.stdout, re.MULTILINE).group(1))
    assert says == OTHER_BITS, "no order of warps showed it"
    assert len(bits) > 1
