// The Python module: addresses in, the GIL released, nothing computed here. Shapes and types are checked by
// gradsift.ops before; what remains throws std::invalid_argument, which Python sees as ValueError.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/cuda.h"
#include "bindings/gil.h"
#include "common/isa.h"
#include "crc32c/crc32c.h"
#include "project_linear/project_linear.h"
#include "project_rows/project_rows.h"
#include "quantise/quantise.h"
#include "round_rows/round_rows.h"
#include "score_rows/score_rows.h"

namespace py = pybind11;

namespace gradsift {
namespace {

// What both ops have in common.
template <class Call>
void fill(Call& call, int64_t samples, const ProjectionTuple& projection, uint64_t param_id, const GammaTuple& gamma,
          const MomentTuple& first, const MomentTuple& second, const OutputTuple& output, int threads) {
    call.projection = projection_of(projection);
    call.param_id = param_id;
    call.gamma = gamma_of(gamma);
    call.first = moment_view(first);
    call.second = moment_view(second);
    const auto& [sketches, sketch_stride, norms, norm_stride, accumulate] = output;
    call.sketches = {pointer<float>(sketches), samples, call.projection.proj_dim, sketch_stride};
    call.norms = {pointer<double>(norms), samples, 2, norm_stride};
    call.accumulate = accumulate;
    call.threads = threads;
}

void bind_project_linear(const RowsTuple& activations, const RowsTuple& output_grads, uintptr_t cu_seqlens, bool padded,
                         int64_t samples, int64_t d_out, int64_t d_in, const ProjectionTuple& projection,
                         uint64_t param_id, const GammaTuple& gamma, const MomentTuple& first,
                         const MomentTuple& second, const OutputTuple& output, int threads) {
    ProjectLinear call;
    fill(call, samples, projection, param_id, gamma, first, second, output, threads);
    call.activations = rows_view(activations, d_in);
    call.output_grads = rows_view(output_grads, d_out);
    call.cu_seqlens = pointer<const int64_t>(cu_seqlens);
    call.padded = padded;
    project_linear(call);
}

void bind_project_rows(const RowsTuple& grads, uintptr_t row_ids, uintptr_t cu_seqlens, int64_t samples, int64_t d_out,
                       int64_t d_in, const ProjectionTuple& projection, uint64_t param_id, const GammaTuple& gamma,
                       const MomentTuple& first, const MomentTuple& second, const OutputTuple& output, int threads) {
    ProjectRows call;
    fill(call, samples, projection, param_id, gamma, first, second, output, threads);
    call.grads = rows_view(grads, d_in);
    call.rows = d_out;
    call.row_ids = pointer<const int64_t>(row_ids);
    call.cu_seqlens = pointer<const int64_t>(cu_seqlens);
    project_rows(call);
}

template <class T>
MatrixView<T> matrix_view(const MatrixTuple& matrix, int64_t rows, int64_t cols) {
    const auto& [address, row_stride] = matrix;
    return {pointer<T>(address), rows, cols, row_stride};
}

void bind_quantise_rows(const MatrixTuple& rows, int64_t n_rows, int64_t proj_dim, int bits, uint64_t seed,
                        uintptr_t codes, uintptr_t scales, uintptr_t norms, int threads) {
    QuantiseRows call;
    call.rows = matrix_view<const float>(rows, n_rows, proj_dim);
    call.bits = bits;
    call.seed = seed;
    call.codes = pointer<uint8_t>(codes);
    call.scales = pointer<float>(scales);
    call.norms = pointer<double>(norms);
    call.threads = threads;
    quantise_rows(call);
}

void bind_dequantise_rows(const MatrixTuple& codes, uintptr_t scales, int64_t n_rows, int64_t proj_dim, int bits,
                          uint64_t seed, const MatrixTuple& out, int threads) {
    DequantiseRows call;
    call.codes = matrix_view<const uint8_t>(codes, n_rows, proj_dim * bits / 8);
    call.scales = pointer<const float>(scales);
    call.bits = bits;
    call.seed = seed;
    call.rows = matrix_view<float>(out, n_rows, proj_dim);
    call.threads = threads;
    dequantise_rows(call);
}

void bind_round_rows(uintptr_t rows, int64_t n, int64_t cols, int64_t stride, uintptr_t out, uintptr_t largest) {
    round_rows({pointer<const float>(rows), n, cols, stride, pointer<uint16_t>(out), pointer<uint32_t>(largest)});
}

std::unique_ptr<ScoreTargets> bind_score_targets(const MatrixTuple& targets, int64_t columns, int64_t proj_dim,
                                                 int format, uint64_t seed) {
    const auto view = matrix_view<const float>(targets, columns, proj_dim);
    const GilReleased no_gil;  // here rather than as a call guard: pybind11 enters the object into its own tables after
    return std::make_unique<ScoreTargets>(view, static_cast<RowFormat>(format), seed);
}

// (columns, address, stride in bytes, address of the scales or 0, weight, scores)
using ScorePartTuple = std::tuple<const ScoreTargets*, uintptr_t, int64_t, uintptr_t, double, MatrixTuple>;

void bind_score_rows(const std::vector<ScorePartTuple>& parts, int64_t n, int reduce, uintptr_t excluded, uint8_t hide,
                     uintptr_t influence, uintptr_t best, uintptr_t status, const MatrixTuple& scores, int threads) {
    ScoreRows call;
    for (const auto& [targets, rows, stride_bytes, scales, weight, part_scores] : parts) {
        call.parts.push_back({targets, pointer<const uint8_t>(rows), stride_bytes, pointer<const float>(scales), weight,
                              matrix_view<float>(part_scores, n, 0)});
    }
    call.n = n;
    call.reduce = static_cast<Reduce>(reduce);
    call.excluded = pointer<const uint8_t>(excluded);
    call.hide = hide;
    call.influence = pointer<float>(influence);
    call.best = pointer<int32_t>(best);
    call.status = pointer<uint8_t>(status);
    call.scores = matrix_view<float>(scores, n, 0);
    call.threads = threads;
    score_rows(call);
}

/// The bytes of an object that has contiguous ones.
struct Bytes {
    explicit Bytes(const py::object& object) {
        if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
    }
    ~Bytes() { PyBuffer_Release(&view); }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    size_t size() const { return static_cast<size_t>(view.len); }

    Py_buffer view;
};

uint32_t bind_crc32c(const py::object& data, uint32_t value) {
    const Bytes bytes(data);
    const GilReleased no_gil;
    return crc32c(bytes.view.buf, bytes.size(), value);
}

std::vector<uint32_t> bind_crc32c_blocks(const py::object& data, size_t block_bytes, int threads) {
    const Bytes bytes(data);
    const GilReleased no_gil;
    std::vector<uint32_t> values(block_bytes == 0 ? 0 : (bytes.size() + block_bytes - 1) / block_bytes);
    crc32c_blocks(bytes.view.buf, bytes.size(), block_bytes, values.data(), threads);
    return values;
}

std::vector<std::string> isa_names() {
    std::vector<std::string> names;
    for (const Isa isa : isas()) names.emplace_back(isa_name(isa));
    return names;
}

}  // namespace
}  // namespace gradsift

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
    using namespace gradsift;
    m.doc() = "Kernels of gradsift on raw addresses; use gradsift.ops.";
    m.def("project_linear", &bind_project_linear, py::call_guard<GilReleased>(), py::kw_only(), py::arg("activations"),
          py::arg("output_grads"), py::arg("cu_seqlens"), py::arg("padded"), py::arg("samples"), py::arg("d_out"),
          py::arg("d_in"), py::arg("projection"), py::arg("param_id"), py::arg("gamma"), py::arg("first_moment"),
          py::arg("second_moment"), py::arg("output"), py::arg("threads"));
    m.def("project_rows", &bind_project_rows, py::call_guard<GilReleased>(), py::kw_only(), py::arg("grads"),
          py::arg("row_ids"), py::arg("cu_seqlens"), py::arg("samples"), py::arg("d_out"), py::arg("d_in"),
          py::arg("projection"), py::arg("param_id"), py::arg("gamma"), py::arg("first_moment"),
          py::arg("second_moment"), py::arg("output"), py::arg("threads"));
    m.def("quantise_rows", &bind_quantise_rows, py::call_guard<GilReleased>(), py::kw_only(), py::arg("rows"),
          py::arg("n_rows"), py::arg("proj_dim"), py::arg("bits"), py::arg("seed"), py::arg("codes"), py::arg("scales"),
          py::arg("norms"), py::arg("threads"));
    m.def("dequantise_rows", &bind_dequantise_rows, py::call_guard<GilReleased>(), py::kw_only(), py::arg("codes"),
          py::arg("scales"), py::arg("n_rows"), py::arg("proj_dim"), py::arg("bits"), py::arg("seed"), py::arg("out"),
          py::arg("threads"));
    py::class_<ScoreTargets>(m, "ScoreTargets", "Target columns packed for rows of one format.")
        .def(py::init(&bind_score_targets), py::kw_only(), py::arg("targets"), py::arg("columns"), py::arg("proj_dim"),
             py::arg("format"), py::arg("seed"));
    m.def("score_rows", &bind_score_rows, py::call_guard<GilReleased>(), py::kw_only(), py::arg("parts"), py::arg("n"),
          py::arg("reduce"), py::arg("excluded"), py::arg("hide"), py::arg("influence"), py::arg("best"),
          py::arg("status"), py::arg("scores"), py::arg("threads"));
    m.def("round_rows", &bind_round_rows, py::call_guard<GilReleased>(), py::kw_only(), py::arg("rows"), py::arg("n"),
          py::arg("cols"), py::arg("stride"), py::arg("out"), py::arg("largest"),
          "float32 rows as bfloat16, and the largest bit pattern of each without its sign.");
    m.def("crc32c", &bind_crc32c, py::arg("data"), py::arg("value") = 0,
          "CRC-32C of a contiguous buffer, continuing from `value`.");
    m.def("crc32c_blocks", &bind_crc32c_blocks, py::arg("data"), py::kw_only(), py::arg("block_bytes"),
          py::arg("threads"), "CRC-32C of each block of a contiguous buffer, the last of which may be shorter.");
    m.def("isas", &isa_names, "Instruction-set levels built in that this CPU can run, best first.");
    m.def("built_isas", &built_isas, "Instruction-set levels built in, best first, whatever this CPU can do.");
    m.def("isa", [] { return std::string(isa_name(active_isa())); }, "The level in force.");
    m.def("set_isa", &set_isa, py::arg("name"), "Force one of `isas()` for calls that start later.");
    bind_cuda(m);
}
