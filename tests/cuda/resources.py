"""What ptxas made of the kernels inside gradsift._native: ``python resources.py`` writes budgets/<file>.json anew.

Needs a build for every architecture of cmake/cuda.cmake, and cuobjdump: that of the CUDA toolkit or of Triton's wheel.
By hand in these files, for a kernel: `dynamic_shared`, the most that its launcher asks for; `blocks`, how many are to
fit on an SM; `instructions`, beginnings of those it must have; `threads` of a block where they are not 256.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BUDGETS = Path(__file__).with_name("budgets")


def cuobjdump() -> str | None:
    """A path, or None."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    bundled = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump"
    return str(bundled) if bundled.exists() else None


def resources(image: bytes) -> dict[str, dict[str, dict[str, int]]]:
    """kernel → architecture → registers, stack and shared, in bytes but for the first."""
    text = _dump(image, "--dump-resource-usage")
    found: dict[str, dict[str, dict[str, int]]] = {}
    arch = ""
    for line in text.splitlines():
        if match := re.match(r"^arch = (sm_\d+)", line):
            arch = match.group(1)
        if match := re.match(r"^ Function (\w+):", line):
            kernel = match.group(1)
        if match := re.match(r"^\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found.setdefault(kernel, {})[arch] = {"registers": registers, "stack": stack + local, "shared": shared}
    return found


def instructions(image: bytes) -> dict[str, dict[str, set[str]]]:
    """kernel → architecture → its instructions with their suffixes, such as ``LDG.E.128.CONSTANT``."""
    found: dict[str, dict[str, set[str]]] = {}
    for block in re.split(r"(?=\t\tFunction : )", _dump(image, "--dump-sass")):
        if not (match := re.match(r"\t\tFunction : (\w+)", block)):
            arch_after = re.findall(r"^arch = (sm_\d+)", block, re.MULTILINE)
            arch = arch_after[-1] if arch_after else ""
            continue
        names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", block, re.MULTILINE)
        found.setdefault(match.group(1), {})[arch] = set(names)
        if arch_after := re.findall(r"^arch = (sm_\d+)", block, re.MULTILINE):
            arch = arch_after[-1]
    return found


def _dump(image: bytes, option: str) -> str:
    tool = cuobjdump()
    assert tool is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.fatbin"
        path.write_bytes(image)
        env = {**os.environ, "PATH": f"{Path(tool).parent}{os.pathsep}{os.environ['PATH']}"}  # it calls nvdisasm
        done = subprocess.run([tool, option, path], env=env, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


def main(names: list[str]) -> None:
    from gradsift import _native

    for name, image in _native.cuda_images().items():
        if names and name not in names:
            continue
        path = BUDGETS / f"{name}.json"
        before = json.loads(path.read_text("utf-8"))["kernels"] if path.exists() else {}
        lines = []
        for kernel, by_arch in sorted(resources(image).items()):
            kept = {
                "registers": {arch: by_arch[arch]["registers"] for arch in sorted(by_arch, key=lambda a: int(a[3:]))},
                "shared": max(found["shared"] for found in by_arch.values()),
                **{key: value for key, value in before.get(kernel, {}).items() if key not in ("registers", "shared")},
            }
            lines.append(f"{json.dumps(kernel)}: {json.dumps(kept)}")
        path.write_text('{\n"nvcc": "13.0",\n"kernels": {\n' + ",\n".join(lines) + "\n}\n}\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
