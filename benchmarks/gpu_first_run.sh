#!/usr/bin/env bash
# The first run on a machine with an NVIDIA GPU: builds, checks, measures, and writes docs/results/gpu-<card>.md.
#
#   benchmarks/gpu_first_run.sh             all of it, at most 20 minutes
#   benchmarks/gpu_first_run.sh --quick     fewer shapes and no sanitizer, some 5 minutes
#   benchmarks/gpu_first_run.sh --dry-run   without a GPU: the same steps, kernels on the emulator, nothing measured
#
# Needs, in the Python that is active: torch with CUDA, triton, and Python's own headers; and nvcc 13 and a C++20
# compiler. What pip can bring of the rest is installed. Without tools, build or card nothing goes on; any other step
# that fails is in the report, with the end of what it said, and does not stop those after it. A step has its own limit,
# and what is left of the whole, GRADSIFT_FIRST_RUN_SECONDS, where that is less.
set -uo pipefail
cd "$(dirname "$0")/.."
mode=${1:-full}
case "$mode" in full | --quick | --dry-run) ;; *)
    echo "gpu_first_run.sh: expected --quick, --dry-run or nothing, got $mode" >&2
    exit 2 ;;
esac
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export PYTHONUNBUFFERED=1
# Where the toolkit puts nvcc and compute-sanitizer, which many machines leave out of PATH.
export PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"
deadline=${GRADSIFT_FIRST_RUN_SECONDS:-1170}
[ "$mode" != --dry-run ] || deadline=${GRADSIFT_FIRST_RUN_SECONDS:-3600}
# A dry run takes the package that is installed, if one is; a card wants the tree's own.
if [ "$mode" != --dry-run ] || ! (cd / && python -c "import gradsift._native" 2> /dev/null); then
    export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}"
fi
results=${GRADSIFT_RESULTS:-docs/results}
[ "$mode" != --dry-run ] || results=${GRADSIFT_RESULTS:-build}

# step NAME SECONDS COMMAND...: what came of it goes to $out/steps.tsv, what it said to $out/NAME.log
step() {
    local name=$1 limit=$2 began=$SECONDS status
    shift 2
    [ "$limit" -le $((deadline - SECONDS)) ] || limit=$((deadline - SECONDS))
    printf '\n== %s (at most %s s)\n' "$name" "$limit"
    if [ "$limit" -ge 1 ]; then
        # bash -c, since timeout knows no functions of this shell; what hangs on the card may not heed the first signal
        timeout --kill-after=10 "$limit" bash -c '"$@"' _ "$@" 2>&1 | tee "$out/$name.log"
        status=${PIPESTATUS[0]}
        [ "$status" != 137 ] || status=124
    else
        status=124 # timeout takes 0 for no limit
    fi
    printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - began))" >> "$out/steps.tsv"
    return "$status"
}

tools() {
    local missing=() wanted=(pybind11 pytest hypothesis numpy)
    if [ "$mode" != --dry-run ]; then
        for package in torch triton; do
            python -c "import $package" || { echo "tools: expected $package in $(command -v python), got none"; return 1; }
        done
        # Triton compiles its launcher against them, and so is the extension.
        python -c "import pathlib, sysconfig; assert pathlib.Path(sysconfig.get_path('include'), 'Python.h').exists()" ||
            { echo "tools: expected Python.h, got none; install python3-dev or the like"; return 1; }
        wanted+=(transformers peft accelerate)
        for tool in cmake ninja; do command -v $tool > /dev/null || missing+=("$tool"); done
    fi
    for package in "${wanted[@]}"; do
        python -c "import $package" 2> /dev/null || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] || python -m pip install --quiet "${missing[@]}" || return 1
    # The tests of quantised models skip without it.
    [ "$mode" = --dry-run ] || python -c "import bitsandbytes" 2> /dev/null ||
        python -m pip install --quiet bitsandbytes || echo "bitsandbytes did not install"
}

build() {
    if [ "$mode" = --dry-run ] && python -c "import gradsift._native" 2> /dev/null; then
        echo "built already"
        return
    fi
    cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DGRADSIFT_CUDA=ON \
        -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$(command -v python)" > "$out/cmake.log" ||
        { cat "$out/cmake.log"; return 1; }
    ninja -C build/gpu && cp build/gpu/_native*.so python/gradsift/
}

sanitize() {
    if ! command -v compute-sanitizer > /dev/null; then
        echo "compute-sanitizer is not on PATH; it comes with the CUDA toolkit"
        return 127
    fi
    for tool in memcheck racecheck; do
        # The smallest cases of every kernel of ours: a sanitizer slows them down a hundredfold. Each tensor in an
        # allocation of its own: torch's pool would hide what is read beyond its end.
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $tool --error-exitcode 9 --target-processes all \
            python -m pytest -q -m gpu -W default tests/gpu/test_sanitizer.py || return 1
    done
}

# Projections of other people, where they build, which takes a card, setuptools and the nvcc that torch was built with:
# gpu_project_rows.py measures those that are there. By --no-deps, so that none brings another torch.
peers() {
    python -c "import setuptools, wheel" 2> /dev/null || python -m pip install --quiet setuptools wheel
    for package in fast_jl sjlt; do
        python -c "import torch, $package" 2> /dev/null ||
            timeout 90 python -m pip install --quiet --no-build-isolation --no-deps $package ||
            echo "$package did not install"
    done
}

export -f tools build sanitize peers
export mode out
step tools 180 tools || { echo "tools are missing; see above" >&2; exit 1; }
step build 240 build || { echo "the build failed; see above" >&2; exit 1; }
step machine 60 python benchmarks/gpu_first_run.py machine "$out/machine.json" "$mode" || exit 1
if [ "$mode" = --dry-run ]; then
    step tests 300 python -m pytest -q -m gpu tests/gpu
    step emulated 600 python -m pytest -q -m driver tests/cuda -k "reference and not reverse and not random"
else
    # -W default: what packages of this machine warn of is no failure of ours
    step tests 420 python -m pytest -q -m gpu -W default tests/gpu --junitxml "$out/tests.xml"
    [ "$mode" = --quick ] || step peers 190 peers
    step measure 420 python benchmarks/gpu_first_run.py measure "$out/measured.json" "$mode"
    [ "$mode" = --quick ] || step sanitizer 240 sanitize
fi
python benchmarks/gpu_report.py "$out" "$results" || exit 1
# 124 is a step out of time; a missing sanitizer is no failure
awk -F'\t' '$2 != 0 && $2 != 127 { print $1 " failed (" $2 ")"; failed = 1 } END { exit failed }' "$out/steps.tsv"
