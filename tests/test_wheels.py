"""How released wheels are built: by cibuildwheel, whose containers may not run where the tests do."""

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WHEELS = SETTINGS["tool"]["cibuildwheel"]


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_a_wheel_for_every_python_and_no_other(arch):
    if importlib.util.find_spec("cibuildwheel") is None:
        pytest.skip("cibuildwheel is not installed; the extra `test` brings it")
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", "linux"]
    done = subprocess.run(
        [*command, "--archs", arch], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"cp3{minor}-manylinux_{arch}" for minor in (10, 11, 12, 13, 14)]


def test_released_wheels_have_cuda_kernels_and_their_nvcc_is_the_one_installed():
    linux = WHEELS["linux"]
    assert linux["environment"]["GRADSIFT_CUDA"] == "ON"
    first, install = (shlex.split(command) for command in linux["before-all"].split("&&"))
    venv = first[-1]
    assert install[0].startswith(f"{venv}/bin/")
    assert install[-1] in SETTINGS["project"]["optional-dependencies"]["cuda-build"]
    assert linux["environment"]["GRADSIFT_NVCC"].startswith(f"{venv}/lib/python3.12/site-packages/nvidia/cu13/bin/")
    assert "cp312" in first[0]


def test_building_needs_no_torch():
    assert not [name for name in SETTINGS["build-system"]["requires"] if "torch" in name]
