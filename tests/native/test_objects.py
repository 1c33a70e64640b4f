"""The objects of single instruction sets: nothing in them may be shared with code for lesser CPUs.

A weak symbol (an inline function or template of a shared header) in such an object may be the copy the linker keeps for
the whole module, and then a CPU without that instruction set runs it and dies.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CMAKE = (ROOT / "CMakeLists.txt").read_text("utf-8")
X86 = os.uname().machine in ("x86_64", "AMD64")
HERE = shutil.which(os.environ.get("CXX", "c++"))
ARM = HERE if os.uname().machine in ("aarch64", "arm64") else shutil.which("aarch64-linux-gnu-g++")
NM = shutil.which("nm")
# one expression for each set of flags in CMakeLists.txt
FLAGS = {
    "sse42": re.search(r'SSE42 "([^"]+)"', CMAKE).group(1).split(";"),
    "avx2": re.search(r'AVX2 "([^"]+)"', CMAKE).group(1).split(";"),
    "avx512": re.search(r'set\(avx512 "([^"]+)"', CMAKE).group(1).split(";"),
    "neon": re.search(r'NEON "([^"]+)"', CMAKE).group(1).split(";"),
}
FLAGS["avx512bf16"] = FLAGS["avx512"] + [re.search(r'AVX512BF16 "\$\{avx512\};([^"]+)"', CMAKE).group(1)]
FLAGS["avx512vnni"] = FLAGS["avx512"] + re.search(r'AVX512VNNI "\$\{avx512\};([^"]+)"', CMAKE).group(1).split(";")
FILES = [path for suffix in FLAGS for path in sorted((ROOT / "csrc").glob(f"*/*_{suffix}.cpp"))]

pytestmark = pytest.mark.skipif(HERE is None or NM is None, reason="no C++ compiler (c++ or $CXX) or no nm on the PATH")


def compiler(suffix):
    if suffix == "neon":
        return ARM or pytest.skip("no compiler for aarch64; apt has g++-aarch64-linux-gnu")
    return HERE if X86 else pytest.skip("no compiler for x86-64 here")


def symbols(compiler, source, flags, tmp_path):
    """(type letter, demangled name) of every symbol that `source` defines for the linker."""
    target = tmp_path / "object.o"
    common = ["-std=c++20", "-O0", "-w", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", f"-I{ROOT / 'csrc'}"]
    built = subprocess.run(
        [compiler, *common, *flags, "-c", str(source), "-o", str(target)], capture_output=True, text=True, timeout=300
    )
    if built.returncode and "unrecognized" in built.stderr:
        pytest.skip(f"{compiler} lacks {' '.join(flags)}")
    assert built.returncode == 0, built.stderr
    listing = subprocess.run(
        [NM, "-C", "--defined-only", "--extern-only", str(target)], capture_output=True, text=True, check=True
    )
    return [tuple(line.split(maxsplit=2)[1:]) for line in listing.stdout.splitlines()]


@pytest.mark.parametrize("source", FILES, ids=lambda path: path.stem)
def test_an_instruction_set_object_defines_its_entry_point_alone(source, tmp_path):
    suffix = source.stem.rpartition("_")[2]
    found = symbols(compiler(suffix), source, FLAGS[suffix], tmp_path)
    assert [letter for letter, _ in found] == ["T"], found
    assert found[0][1].startswith(f"gradsift::{source.stem}(")


def test_the_check_sees_an_inline_function(tmp_path):
    source = tmp_path / "shared.cpp"
    source.write_text(
        "inline __attribute__((noinline)) int f(int x) { return x + 1; }\nint g(int x) { return f(x); }\n"
    )
    assert ("W", "f(int)") in symbols(HERE, source, [], tmp_path)


def test_every_instruction_set_file_is_looked_at():
    named = set(re.findall(r"csrc/\S+_(?:sse42|avx2|avx512|avx512vnni|avx512bf16|neon)\.cpp", CMAKE))
    assert named == {str(path.relative_to(ROOT)) for path in FILES}
