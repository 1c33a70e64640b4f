"""Builds the stand-in libcuda.so.1, with every csrc/*/*.cu on the emulator, and runs programs against it."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
FLAGS = [
    "-std=c++20",
    "-g1",
    "-fPIC",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
]
VARIANTS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread", "-DGRADSIFT_EMULATOR_THREADS"],
}
# What the interpreter, which is not built with a sanitizer, has to load before all else.
PRELOADED = {"plain": [], "address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:halt_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:report_bugs=1:exitcode=66",
}


def compiled(source, flags, folder, csrc=CSRC):
    """The object of one source, made again only if it, a header or a flag has changed."""
    digest = hashlib.sha256(" ".join([*flags, source.name]).encode())
    for path in [source, *sorted(csrc.rglob("*.h"))]:
        digest.update(path.read_bytes())
    target = folder / f"{source.stem}-{digest.hexdigest()[:20]}.o"
    if not target.exists():
        made = target.with_suffix(f".{os.getpid()}")
        command = ["g++", *flags, f"-I{csrc}", "-x", "c++", "-c", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        made.rename(target)
    return target


def linked(sources, variant, target, csrc=CSRC, optimise="-O1"):
    """A libcuda.so.1 of these .cu files at `target`."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed, which the emulator is built with")
    flags = [*FLAGS, *VARIANTS[variant]]
    folder = ROOT / "build/emulator"
    folder.mkdir(parents=True, exist_ok=True)
    fixed = [*sorted((CSRC / "cuda/emulator").glob("*.cpp")), ROOT / "tests/cuda/mock_driver.cpp"]
    objects = [compiled(source, [*flags, "-O1", "-Werror"], folder) for source in fixed]
    # A planted bug may leave something unused.
    flags += [optimise] if csrc != CSRC else [optimise, "-Werror"]
    objects += [compiled(source, flags, folder, csrc) for source in sources]
    command = ["g++", "-shared", *VARIANTS[variant], *map(str, objects), "-pthread", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """`emulator(variant)`: the path of a stand-in driver with all kernels, of a variant in VARIANTS."""
    needs_kernels()
    made = {}

    def once(variant="plain"):
        if variant not in made:
            target = tmp_path_factory.mktemp(variant) / "libcuda.so.1"
            made[variant] = linked(sorted(CSRC.glob("*/*.cu")), variant, target)
        return made[variant]

    return once


@pytest.fixture
def link():
    """`link(sources, variant, target, csrc)`; see `linked`."""
    needs_kernels()
    linked.csrc = CSRC
    return linked


def needs_kernels():
    if importlib.util.find_spec("gradsift._native") is None:
        pytest.skip("gradsift._native is not built here: `pip install .` builds it")
    from gradsift import _native

    if not _native.cuda_built():
        pytest.skip("gradsift._native has no CUDA kernels: build it with GRADSIFT_CUDA=ON, which needs nvcc")


def environment():
    """That of a program that imports gradsift as it is here."""
    import gradsift

    paths = [str(Path(gradsift.__file__).parents[1]), str(ROOT / "tests/cuda")]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **SANITIZERS, **threads, "PYTHONPATH": os.pathsep.join(paths)}


def run_program(driver, name, *words, variant="plain", timeout=300, **variables):
    """Runs a Python program of this folder with `driver` in place of NVIDIA's; returns the finished process."""
    preloaded = []
    for library in PRELOADED[variant]:
        found = subprocess.run(["g++", f"-print-file-name={library}"], capture_output=True, text=True, check=True)
        preloaded.append(found.stdout.strip())
    env = {
        **environment(),
        "GRADSIFT_CUDA_DRIVER": str(driver),
        "LD_PRELOAD": " ".join(preloaded),
        **{key: str(value) for key, value in variables.items()},
    }
    # ThreadSanitizer maps its shadow memory to fixed places, which address randomisation may have taken.
    fixed_places = ["setarch", os.uname().machine, "-R"] if variant == "thread" else []
    command = [*fixed_places, sys.executable, "-X", "faulthandler", ROOT / "tests/cuda" / name, *words]
    return subprocess.run(
        [str(word) for word in command], env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture
def program():
    return run_program


@pytest.fixture
def program_environment():
    return environment()


@pytest.fixture
def run_emulated(emulator):
    """`run_emulated(program, *words, order=…, copies=…, variant=…)`: the program's output, once it has succeeded."""

    def run(program, *words, order="forward", copies="late", seed=1, variant="plain", timeout=300):
        done = run_program(
            emulator(variant), program, *words, variant=variant, timeout=timeout,
            GRADSIFT_EMULATOR_ORDER=order, GRADSIFT_EMULATOR_COPIES=copies, GRADSIFT_EMULATOR_SEED=seed,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        return done.stdout

    return run
