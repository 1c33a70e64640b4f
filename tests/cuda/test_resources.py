"""The compiled kernels keep to what budgets/<file>.json allows: registers, shared memory, blocks that fit on an SM, and
the instructions they are written for. No kernel spills.
"""

import importlib.util
import json
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Of an SM. The system's 1 KiB for each block is among what cuobjdump reports from sm_90 on, and so in `shared`.
REGISTERS = 65536
SHARED_BYTES = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10}

pytestmark = pytest.mark.driver


def load():
    spec = importlib.util.spec_from_file_location("resources", HERE / "resources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tools = load()


@pytest.fixture(scope="module")
def images():
    if importlib.util.find_spec("gradsift._native") is None:
        pytest.skip("gradsift._native is not built here: `pip install .` builds it")
    from gradsift import _native

    if not _native.cuda_built():
        pytest.skip("gradsift._native has no CUDA kernels: build it with GRADSIFT_CUDA=ON, which needs nvcc")
    if tools.cuobjdump() is None:
        pytest.skip("cuobjdump is neither on PATH nor in Triton's wheel")
    return _native.cuda_images()


FILES = sorted(path.stem for path in (HERE / "budgets").glob("*.json"))
budgets = {name: json.loads((HERE / "budgets" / f"{name}.json").read_text("utf-8"))["kernels"] for name in FILES}


@cache
def found(name, image):
    return tools.resources(image)


def test_every_file_of_kernels_has_budgets(images):
    assert sorted(images) == FILES


@pytest.mark.parametrize("name", FILES)
def test_every_kernel_has_a_budget_and_none_spills(images, name):
    kernels = found(name, images[name])
    assert sorted(kernels) == sorted(budgets[name])
    spilling = {
        (kernel, arch): use["stack"]
        for kernel, by_arch in kernels.items()
        for arch, use in by_arch.items()
        if use["stack"] > budgets[name][kernel].get("stack", 0)
    }
    assert spilling == {}


@pytest.mark.parametrize("name", FILES)
def test_registers_and_shared_memory_stay_within_the_budgets(images, name):
    for kernel, by_arch in found(name, images[name]).items():
        budget = budgets[name][kernel]
        for arch, use in by_arch.items():
            assert use["registers"] <= budget["registers"][arch], (kernel, arch)
            assert use["shared"] <= budget["shared"], (kernel, arch)


@pytest.mark.parametrize("name", FILES)
def test_as_many_blocks_as_are_meant_to_fit_on_an_sm(name):
    for kernel, budget in budgets[name].items():
        shared = budget["shared"] + budget.get("dynamic_shared", 0)
        for arch, registers in budget["registers"].items():
            # Registers are given out to a warp by 256.
            of_block = budget.get("threads", 256) // 32 * -(-registers * 32 // 256) * 256
            fitting = min(REGISTERS // of_block, SHARED_BYTES[arch] // shared)
            assert fitting >= budget["blocks"][arch], (kernel, arch)


@pytest.mark.parametrize("name", FILES)
def test_kernels_have_the_instructions_they_are_written_for(images, name):
    used = tools.instructions(images[name])
    for kernel, budget in budgets[name].items():
        for arch, names in used[kernel].items():
            for needed in budget["instructions"]:
                assert any(one.startswith(needed) for one in names), (kernel, arch, needed)
