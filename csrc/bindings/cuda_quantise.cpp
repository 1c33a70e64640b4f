#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/cuda.h"
#include "bindings/gil.h"
#include "quantise/quantise_cuda.h"

namespace py = pybind11;

namespace gradsift {
namespace {

void quantise(const std::tuple<int, uintptr_t>& place, const MatrixTuple& rows, int64_t n_rows, int64_t proj_dim,
              int bits, uint64_t seed, uintptr_t codes, uintptr_t scales, uintptr_t norms, uintptr_t scratch) {
    quantise_rows_cuda({{std::get<0>(place), std::get<1>(place)},
                        {pointer<const float>(std::get<0>(rows)), n_rows, proj_dim, std::get<1>(rows)},
                        bits,
                        seed,
                        pointer<uint8_t>(codes),
                        pointer<float>(scales),
                        pointer<double>(norms),
                        pointer<float>(scratch)});
}

void dequantise(const std::tuple<int, uintptr_t>& place, const MatrixTuple& codes, uintptr_t scales, int64_t n_rows,
                int64_t proj_dim, int bits, uint64_t seed, const MatrixTuple& out, uintptr_t scratch) {
    dequantise_rows_cuda({{std::get<0>(place), std::get<1>(place)},
                          {pointer<const uint8_t>(std::get<0>(codes)), n_rows, proj_dim * bits / 8, std::get<1>(codes)},
                          pointer<const float>(scales),
                          bits,
                          seed,
                          {pointer<float>(std::get<0>(out)), n_rows, proj_dim, std::get<1>(out)},
                          pointer<float>(scratch)});
}

}  // namespace

void bind_cuda_quantise(py::module_& m) {
    m.def("cuda_quantise_scratch", &quantise_cuda_scratch, py::arg("device"), py::arg("rows"), py::arg("proj_dim"),
          py::call_guard<GilReleased>(), "Bytes of device memory that either call needs beside its arguments.");
    m.def("cuda_quantise_rows", &quantise, py::call_guard<GilReleased>(), py::kw_only(), py::arg("place"),
          py::arg("rows"), py::arg("n_rows"), py::arg("proj_dim"), py::arg("bits"), py::arg("seed"), py::arg("codes"),
          py::arg("scales"), py::arg("norms"), py::arg("scratch"));
    m.def("cuda_dequantise_rows", &dequantise, py::call_guard<GilReleased>(), py::kw_only(), py::arg("place"),
          py::arg("codes"), py::arg("scales"), py::arg("n_rows"), py::arg("proj_dim"), py::arg("bits"), py::arg("seed"),
          py::arg("out"), py::arg("scratch"));
}

}  // namespace gradsift
