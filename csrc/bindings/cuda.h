#pragma once
#include <pybind11/pybind11.h>

namespace gradsift {

/// What is known of the driver and its devices, and every op that has CUDA kernels.
void bind_cuda(pybind11::module_& m);

void bind_cuda_project_rows(pybind11::module_& m);
void bind_cuda_quantise(pybind11::module_& m);
void bind_cuda_score_rows(pybind11::module_& m);

}  // namespace gradsift
