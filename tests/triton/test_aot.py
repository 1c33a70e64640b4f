"""Every kernel that dispatch may choose, compiled for A100, H100 and B200: what it needs is kept and may not grow."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def compiles(test):
    missing = importlib.util.find_spec("triton") is None
    return pytest.mark.slow(
        pytest.mark.skipif(missing, reason="triton is not installed: pip install 'gradsift[test]'")(test)
    )


@pytest.fixture(scope="module")
def aot():
    spec = importlib.util.spec_from_file_location("aot", HERE / "aot.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """In a process of its own: this one may have run Triton's interpreter, or hold no compiler."""
    command = [sys.executable, str(HERE / "aot.py"), "--json", str(tmp_path_factory.mktemp("aot") / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(Path(command[-1]).read_text("utf-8"))


@compiles
def test_every_kernel_has_a_budget_and_no_budget_is_left_over(aot, found):
    kept = json.loads(aot.BUDGETS.read_text("utf-8"))["kernels"]
    assert set(found) == set(kept)


@compiles
def test_nothing_spills(found):
    assert {name: needs["spill_bytes"] for name, needs in found.items() if needs["spill_bytes"]} == {}


@compiles
def test_what_spilled_once_does_not(aot, found):
    jobs = [job for card in aot.CARDS for job in aot.once_spilled(card)]
    assert {job.name(): found[job.name()]["spill_bytes"] for job in jobs} == {job.name(): 0 for job in jobs}


@compiles
def test_registers_and_shared_memory_stay_within_budget(aot, found):
    """The budget is of one version of Triton, which constraints.txt pins."""
    kept = json.loads(aot.BUDGETS.read_text("utf-8"))["kernels"]
    for name, needs in found.items():
        assert needs["registers"] <= kept[name]["registers"], name
        assert needs["shared_bytes"] <= kept[name]["shared_bytes"], name


@compiles
def test_shared_memory_is_within_the_card(aot, found):
    for job in aot.jobs():
        assert found[job.name()]["shared_bytes"] <= aot.SHARED_BYTES[job.card], job.name()


@compiles
def test_products_run_on_tensor_cores(aot, found):
    for job in aot.jobs():
        if job.kernel == "sketch_tiles":
            assert found[job.name()]["tensor_core"], job.name()
        if job.kernel == "sketch_tiles" and job.block_out >= 64:
            assert aot.TENSOR_CORES[job.card][0] in found[job.name()]["tensor_core"], job.name()


def test_the_page_has_the_table_of_the_budgets(aot):
    kept = json.loads(aot.BUDGETS.read_text("utf-8"))["kernels"]
    assert aot.between_marks(aot.PAGE.read_text("utf-8")).strip() == aot.table(kept)


def test_a_table_is_written_between_the_marks_and_nowhere_else(aot):
    page = "# A page\n\nits text\n<!-- aot -->\n<!-- end -->\nits end\n"
    once = aot.with_table(page, "| a |")
    assert once == "# A page\n\nits text\n<!-- aot -->\n| a |\n<!-- end -->\nits end\n"
    assert aot.with_table(once, "| b |") == once.replace("| a |", "| b |")


@pytest.fixture(scope="module")
def launched():
    command = [sys.executable, str(HERE / "run_just_in_time.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@compiles
def test_what_a_call_passes_compiles_as_it_would_on_a_card(launched):
    for kernels in launched.values():
        assert [kernel["kernel"] for kernel in kernels] == ["sketch_tiles", "add_slabs"]
        assert kernels[0]["products"] > 0


@compiles
def test_layers_of_a_model_share_one_compilation(launched):
    assert launched["LoRA"] == launched["another layer, wider"]


@compiles
def test_operands_are_copied_asynchronously_where_vectors_divide_them(launched):
    """Both operands, then one of them: the other's rows begin at odd places."""
    assert launched["LoRA"][0]["copies"] > launched["rows of an odd stride"][0]["copies"] > 0
