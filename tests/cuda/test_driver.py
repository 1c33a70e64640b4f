"""The driver as it is found, used and complained about; a stand-in for it that can do everything wrong."""

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.driver


@pytest.fixture
def output(emulator, program):
    """`output(what, fault)`: what `cases_driver.py what` prints."""

    def run(what, fault="", driver=None, **environment):
        done = program(driver or emulator(), "cases_driver.py", what, GRADSIFT_MOCK_FAULT=fault, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_without_a_driver_everything_imports_and_the_reason_is_said(output, tmp_path):
    said = output("reason", driver=tmp_path / "libcuda.so.1")
    assert re.search(r"^reason: no NVIDIA driver \(.*libcuda\.so\.1: cannot open shared object file.*\)$", said, re.M)
    assert re.search(r"^why_not: no NVIDIA driver ", said, re.M)
    assert re.search(r"^  cuda: not available, no NVIDIA driver ", said, re.M)
    raised = [line for line in said.splitlines() if line.startswith("BackendUnavailableError: backend: expected ")]
    assert len(raised) == 3
    assert all("got no NVIDIA driver" in line for line in raised)


def test_a_driver_that_is_too_old_is_refused_with_both_versions(output):
    said = output("reason", "old")
    assert (
        "reason: an NVIDIA driver for CUDA 12.8, older than the CUDA 13.0 (driver r580) that the kernels need" in said
    )
    assert said.count("BackendUnavailableError: backend: expected ") == 3


def test_a_library_that_is_no_driver_is_refused_with_what_it_lacks(output, tmp_path):
    source = tmp_path / "empty.c"
    source.write_text("int gradsift_nothing;\n", "utf-8")
    empty = tmp_path / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", empty, source], check=True)
    assert "reason: an NVIDIA driver older than r580, which has no cuInit\n" in output("reason", driver=empty)


def test_a_driver_without_a_device_is_refused(output):
    said = output("reason", "no-device")
    assert "reason: an NVIDIA driver without a device (see CUDA_VISIBLE_DEVICES)\n" in said


@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        (
            "no-kernel",
            r"BackendUnavailableError: loading the kernels of project_rows on device 0 \(emulated card, compute "
            r"capability 7\.0\): expected one of the architectures that kernels were built for \(sm_.* compute_\d+\), "
            r"got CUDA_ERROR_NO_BINARY_FOR_GPU; ",
        ),
        (
            "no-memory",
            r"DeviceMemoryError: loading the kernels of project_rows on device 0 .*: expected memory left on the "
            r"device, got CUDA_ERROR_OUT_OF_MEMORY; ",
        ),
        ("no-context-memory", r"DeviceMemoryError: taking the primary context on device 0 .*OUT_OF_MEMORY; "),
        ("host-pointer", r"ValueError: grads: expected memory of device 0, got an address in host memory; "),
        ("other-device", r"ValueError: grads: expected memory of device 0, got memory of device 1; "),
        (
            "launch",
            r"DeviceError: launching project_rows_f32_2 with 1 x 1 x 1 blocks of 256 threads and 2048 bytes of shared "
            r"memory on device 0 .*: expected success, got CUDA_ERROR_LAUNCH_FAILED; an earlier kernel may be the",
        ),
    ],
)
def test_every_fault_has_its_own_message(output, fault, pattern):
    assert re.match(pattern, output("call", fault))


def test_a_kernel_that_fails_later_is_told_of_at_once_when_asked_to_wait(output):
    assert output("call", "asynchronous") == "nothing was raised\n"
    assert "DeviceError: launching project_rows_f32_2" in output("call", "asynchronous", GRADSIFT_CUDA_SYNC="1")


def test_devices_are_counted_and_others_refused(output):
    assert output("devices").splitlines() == [
        "2 emulated card 13000",
        "ValueError: device: expected 0 to 1, got 2",
        "ValueError: device: expected 0 to 1, got -1",
    ]


def test_rows_too_long_for_a_blocks_shared_memory_are_refused_with_both_sizes(output):
    assert output("long_rows", GRADSIFT_MOCK_SHARED=99 << 10) == (
        "BackendUnavailableError: backend: expected 139264 bytes of shared memory a block, for rows of 32768 numbers, "
        "got 101376 on device 0 (emulated card); move the arrays to the CPU\n"
    )


def test_kernels_run_on_the_stream_they_are_given(output, tmp_path):
    log = tmp_path / "launches"
    output("stream", GRADSIFT_MOCK_LOG=log)
    assert log.read_text("utf-8").splitlines() == [f"project_rows_f32_2 1 1 1 256 2048 stream {0x5EED}"]


def test_first_calls_from_several_threads_agree(output):
    assert output("threads") == "8 of 8 alike\n"


def test_a_forked_child_is_told_to_be_spawned_and_the_parent_goes_on(output):
    said = output("fork").splitlines()
    assert said[0].startswith(
        "BackendUnavailableError: backend: expected CUDA kernels and a driver for 'cuda', got a process"
    )
    assert said[1:] == [
        "reason: a process forked from one that uses CUDA; start it by the method 'spawn' instead",
        "the parent goes on",
    ]


def test_a_child_forked_before_the_first_use_works(output):
    assert output("fork_before_use") == "the child sketches\n"


def test_importing_looks_for_no_driver(tmp_path, program_environment):
    text = "import gradsift, gradsift.ops, gradsift._native, os; print('libcuda' in open('/proc/self/maps').read())"
    env = {**program_environment, "GRADSIFT_CUDA_DRIVER": ""}
    done = subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
