"""What a build does with and without nvcc; only configured, nothing is compiled."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.driver


@pytest.fixture
def configure(tmp_path):
    """`configure(*options, nvcc=…)`: CMake's finished process, where `nvcc` is what an nvcc on PATH prints, or None."""
    for tool in ("cmake", "ninja", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    pybind11 = pytest.importorskip("pybind11", reason="building needs pybind11")

    def run(*options, nvcc=None):
        # A PATH of the tools that a build needs and no other.
        tools = tmp_path / "bin"
        tools.mkdir()
        for tool in ("cmake", "ninja", "gcc", "g++", "as", "ld", "ar", "ranlib", "nm", "git", "sh", "uname", "touch"):
            if found := shutil.which(tool):
                (tools / tool).symlink_to(found)
        if nvcc is not None:
            (tools / "nvcc").write_text(f"#!/bin/sh\necho '{nvcc}'\n", "utf-8")
            (tools / "nvcc").chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if k not in ("CUDA_HOME", "CUDA_PATH", "GRADSIFT_NVCC")}
        command = [
            "cmake",
            "-S",
            ROOT,
            "-B",
            tmp_path / "build",
            "-G",
            "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
        ]
        command += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", *options]
        environment = {**kept, "PATH": str(tools)}
        command = [str(word) for word in command]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    return run


def one_line(text):
    return re.sub(r"\s+", " ", text)


def test_asked_for_kernels_without_nvcc_are_an_error_that_says_what_to_install(configure):
    done = configure("-DGRADSIFT_CUDA=ON")
    assert done.returncode != 0
    said = one_line(done.stderr)
    assert (
        "GRADSIFT_CUDA: expected nvcc, since it is ON, got none; pip install 'cuda-toolkit[nvcc,cudart,cccl]==13.0.*'"
        in said
    )


def test_an_nvcc_that_is_too_old_is_an_error_that_names_its_release(configure):
    done = configure("-DGRADSIFT_CUDA=ON", nvcc="Cuda compilation tools, release 12.4, V12.4.131")
    assert done.returncode != 0
    assert re.search(r"expected nvcc 13\.0 or newer, got \S+/nvcc of release '12\.4'", one_line(done.stderr))


def test_without_nvcc_the_rest_is_built_and_said_to_have_no_kernels(configure, tmp_path):
    done = configure()
    assert done.returncode == 0, done.stderr
    assert "gradsift: no CUDA kernels, nvcc 13.0 or newer was not found; pip install 'cuda-toolkit" in done.stdout
    table = (tmp_path / "build/cuda_images.cpp").read_text("utf-8")
    assert "incbin" not in table
    assert "{nullptr, nullptr, nullptr}" in table


def test_every_file_of_kernels_is_built_for_every_card_and_for_those_to_come(configure, tmp_path):
    done = configure("-DGRADSIFT_CUDA=ON", nvcc="Cuda compilation tools, release 13.0, V13.0.88")
    assert done.returncode == 0, done.stderr
    rules = (tmp_path / "build/build.ninja").read_text("utf-8")
    for source in ROOT.glob("csrc/*/*.cu"):
        (command,) = [line for line in rules.splitlines() if "COMMAND = " in line and f"/{source.name} -o " in line]
        for arch in (80, 90, 100):
            assert f"arch=compute_{arch},code=sm_{arch} " in command
        assert "arch=compute_100,code=compute_100 " in command
        assert "--fmad=false" in command
        assert f'"{source.stem}", gradsift_{source.stem}_begin' in (tmp_path / "build/cuda_images.cpp").read_text(
            "utf-8"
        )
