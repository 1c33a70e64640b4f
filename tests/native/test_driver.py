"""The kernels without Python (tests/native/driver): known answers under guard pages, sanitizers and an emulator, with
other compilers; and planted bugs, to see that each of these bites. `pytest -m driver` runs them.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRIVER = Path("tests/native/driver/kernel_driver")
# What a preset needs beside CMake, Ninja and the compiler of every build.
TOOLS = {"clang": ["clang++"], "aarch64": ["aarch64-linux-gnu-g++", "qemu-aarch64"]}
EMULATOR = {"aarch64": ["qemu-aarch64"]}
SANITIZERS = {
    "ASAN_OPTIONS": "abort_on_error=0:detect_leaks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}

pytestmark = pytest.mark.driver


def run(command, timeout, **environment):
    env = {**os.environ, **SANITIZERS, **environment}
    return subprocess.run(
        [str(word) for word in command], env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def build():
    """`build(preset)`: its folder, with the driver built; presets are in CMakePresets.json."""
    done = {}

    def once(preset):
        for tool in ["cmake", "ninja", *TOOLS.get(preset, [])]:
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed; `.ci/run` has the apt-get line")
        if preset not in done:
            for command in (["cmake", "--preset", preset], ["cmake", "--build", "--preset", preset, "-j2"]):
                made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
                assert made.returncode == 0, made.stdout + made.stderr
            done[preset] = ROOT / "build" / preset
        return done[preset]

    return once


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """`cases(few)`: a file of them; the few leave out what takes long under a sanitizer."""
    spec = importlib.util.spec_from_file_location("write_cases", ROOT / "tests/native/driver/write_cases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    folder, done = tmp_path_factory.mktemp("cases"), {}

    def once(few):
        if few not in done:
            done[few] = folder / f"{few}.bin"
            module.write(done[few], few)
        return done[few]

    return once


def checks_of(done):
    """How many checks passed, on how many instruction sets."""
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    checks, isas = re.search(r"^(\d+) checks on (\d+) instruction sets, 0 failed$", done.stdout, re.MULTILINE).groups()
    return int(checks), int(isas)


RUNS = [
    # preset, few cases, memory, callers
    ("driver", False, "guard", "one"),
    ("driver", True, "guard", "two"),
    ("clang", True, "guard", "one"),
    ("address", True, "heap", "one"),
    ("address", True, "heap", "nested"),
    ("thread", True, "heap", "two"),
    ("thread", True, "heap", "nested"),
    ("aarch64", True, "guard", "one"),
]


@pytest.mark.parametrize(("preset", "few", "memory", "callers"), RUNS, ids=lambda x: str(x))
def test_every_instruction_set_gives_the_known_answers(preset, few, memory, callers, build, cases):
    program = [*EMULATOR.get(preset, []), build(preset) / DRIVER]
    checks, isas = checks_of(run([*program, cases(few), "--memory", memory, "--callers", callers], timeout=300))
    assert checks >= 100 * isas
    if preset == "aarch64":
        assert isas == 2


def test_the_environment_forces_neon_or_less_and_nothing_else(build):
    program = ["qemu-aarch64", build("aarch64") / DRIVER, os.devnull]  # it says what is in force before it reads cases
    for isa in ("neon", "scalar"):
        assert run(program, 60, GRADSIFT_ISA=isa).stdout.startswith(f"in force: {isa}\n")
    refused = run(program, 60, GRADSIFT_ISA="avx2")
    assert refused.returncode == 2
    assert "GRADSIFT_ISA: expected one of neon, scalar" in refused.stderr


def inner_loops(listing, function):
    """Instructions of the loops without loops inside, of every function whose name has `function` in it."""
    for body in re.findall(rf"^[0-9a-f]+ <[^\n]*{function}[^\n]*>:\n((?:[^\n]+\n)+)", listing, re.MULTILINE):
        lines = [(int(at, 16), text) for at, text in re.findall(r"^ *([0-9a-f]+):\t([^\n]+)$", body, re.MULTILINE)]
        back = [
            (int(jump.group(1), 16), at)
            for at, text in lines
            if (jump := re.match(r"b\.\w+\s+([0-9a-f]+)", text)) and int(jump.group(1), 16) < at
        ]
        for begin, end in back:
            if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in back):
                yield [text for at, text in lines if begin <= at <= end]


def test_the_loop_of_neon_over_tokens_multiplies_by_element_and_touches_no_stack(build):
    (target,) = build("aarch64").glob("**/project_linear_neon.cpp.o")
    objdump = ["aarch64-linux-gnu-objdump", "-dC", "--no-show-raw-insn", target]
    loops = list(inner_loops(run(objdump, 60).stdout, "multiply"))
    assert loops
    for loop in loops:
        fused = [text for text in loop if text.startswith("fmla")]
        assert len(fused) >= 8, loop
        assert sum(bool(re.search(r"\.s\[\d\]", text)) for text in fused) * 2 > len(fused), loop
        assert not [text for text in loop if "[sp" in text], loop


# Planted bugs: one file is compiled again from a changed copy of csrc and linked with the other objects.
READ_PAST_THE_END = ("common/vec_scalar.h", "l < kLanes && l < count", "l < kLanes && l <= count")
WRONG_SIGN = ("common/vec_scalar.h", "bits << 29", "bits << 28")
WRITE_PAST_THE_END = ("common/slices.cpp", "row[begin + p] = output", "row[begin + p + 1] = output")
SHIFT_TOO_FAR = ("common/projection.cpp", "projection.seed >> 32", "projection.seed >> 64")
UNLOCKED_COUNTER = [
    ("common/parallel.cpp", "std::atomic<int64_t> next{0}", "int64_t next{0}"),
    ("common/parallel.cpp", "next.fetch_add(1)", "next++"),
]
PLANTED = {
    "a read past the end, guard pages": (
        "driver", "project_rows/project_rows_scalar.cpp", [READ_PAST_THE_END], "guard", "one",
        -signal.SIGSEGV, r"FAULT in project_rows .*, scalar",
    ),
    "a read past the end, AddressSanitizer": (
        "address", "project_rows/project_rows_scalar.cpp", [READ_PAST_THE_END], "heap", "one",
        1, "AddressSanitizer: heap-buffer-overflow",
    ),
    "a write past the end, guard pages": (
        "driver", "common/slices.cpp", [WRITE_PAST_THE_END], "guard", "one",
        -signal.SIGSEGV, r"FAULT in project_linear .*, scalar",
    ),
    "a wrong sign": (
        "driver", "project_rows/project_rows_scalar.cpp", [WRONG_SIGN], "guard", "one",
        1, r"FAILED project_rows .*sketches\[\d+\]: expected",
    ),
    "a shift by too much, UndefinedBehaviorSanitizer": (
        "address", "common/projection.cpp", [SHIFT_TOO_FAR], "heap", "one", 1, "shift exponent 64 is too large",
    ),
    "an unlocked counter, ThreadSanitizer": (
        "thread", "common/parallel.cpp", UNLOCKED_COUNTER, "heap", "one", 66, "ThreadSanitizer: data race",
    ),
}  # fmt: skip


def with_planted(folder, changes, source, target):
    """Links the driver of a build `folder` with `source` compiled from a copy of csrc that has `changes`."""
    copy = target.parent / "csrc"
    shutil.copytree(ROOT / "csrc", copy)
    for name, old, new in changes:
        text = (copy / name).read_text("utf-8")
        assert text.count(old) == 1, f"{name}: nothing to change, {old!r} stands there {text.count(old)} times"
        (copy / name).write_text(text.replace(old, new), "utf-8")
    entries = json.loads((folder / "compile_commands.json").read_text("utf-8"))
    commands = {Path(entry["file"]): shlex.split(entry["command"]) for entry in entries}
    objects = {file: folder / command[command.index("-o") + 1] for file, command in commands.items()}
    command = commands[ROOT / "csrc" / source]
    planted = target.parent / "planted.o"
    command = [word.replace(str(ROOT / "csrc"), str(copy)) for word in command if word != "-Werror"]
    command[command.index("-o") + 1] = str(planted)
    compiled = run([*command, "-O0"], 300)
    assert compiled.returncode == 0, compiled.stderr
    others = [path for file, path in objects.items() if file != ROOT / "csrc" / source]
    flags = [word for word in command if word.startswith(("-fsanitize", "-O", "-g"))]
    linked = run([command[0], *flags, planted, *others, "-pthread", "-o", target], 300)
    assert linked.returncode == 0, linked.stderr


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_caught(bug, build, cases, tmp_path):
    preset, source, changes, memory, callers, code, message = PLANTED[bug]
    program = tmp_path / "planted_driver"
    with_planted(build(preset), changes, source, program)
    done = run([program, cases(True), "--memory", memory, "--callers", callers, "--isa", "scalar"], 300)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(message, done.stdout + done.stderr), done.stdout[-2000:] + done.stderr[-2000:]
