#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/cuda.h"
#include "bindings/gil.h"
#include "project_rows/project_rows_cuda.h"

namespace py = pybind11;

namespace gradsift {
namespace {

void run(const std::tuple<int, uintptr_t>& place, const RowsTuple& grads, uintptr_t row_ids, uintptr_t cu_seqlens,
         int64_t samples, int64_t longest, int64_t d_out, int64_t d_in, const ProjectionTuple& projection,
         uint64_t param_id, const GammaTuple& gamma, const MomentTuple& first, const MomentTuple& second,
         const OutputTuple& output, const std::tuple<uintptr_t, int64_t>& scratch) {
    ProjectRowsCuda call;
    call.place = {std::get<0>(place), std::get<1>(place)};
    const auto& [address, dtype, sample_stride, row_stride] = grads;
    call.grads = pointer<const void>(address);
    call.dtype = static_cast<CudaDtype>(dtype);
    call.sample_stride = sample_stride;
    call.row_stride = row_stride;
    call.rows = d_out;
    call.cols = d_in;
    call.row_ids = pointer<const int64_t>(row_ids);
    call.cu_seqlens = pointer<const int64_t>(cu_seqlens);
    call.longest = longest;
    call.projection = projection_of(projection);
    call.param_id = param_id;
    call.gamma = gamma_of(gamma);
    call.first = moment_view(first);
    call.second = moment_view(second);
    const auto& [sketches, sketch_stride, norms, norm_stride, accumulate] = output;
    call.sketches = {pointer<float>(sketches), samples, call.projection.proj_dim, sketch_stride};
    call.norms = {pointer<double>(norms), samples, 2, norm_stride};
    call.accumulate = accumulate;
    call.scratch = pointer<void>(std::get<0>(scratch));
    call.scratch_bytes = std::get<1>(scratch);
    project_rows_cuda(call);
}

}  // namespace

void bind_cuda_project_rows(py::module_& m) {
    m.def("cuda_project_rows_scratch", &project_rows_cuda_scratch, py::kw_only(), py::arg("samples"), py::arg("rows"),
          py::arg("cols"), py::arg("proj_dim"), "Bytes of device memory that a call needs beside its arguments.");
    m.def("cuda_project_rows", &run, py::call_guard<GilReleased>(), py::kw_only(), py::arg("place"), py::arg("grads"),
          py::arg("row_ids"), py::arg("cu_seqlens"), py::arg("samples"), py::arg("longest"), py::arg("d_out"),
          py::arg("d_in"), py::arg("projection"), py::arg("param_id"), py::arg("gamma"), py::arg("first_moment"),
          py::arg("second_moment"), py::arg("output"), py::arg("scratch"));
}

}  // namespace gradsift
