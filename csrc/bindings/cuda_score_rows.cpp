#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/arguments.h"
#include "bindings/cuda.h"
#include "bindings/gil.h"
#include "common/check.h"
#include "score_rows/score_rows_cuda.h"

namespace py = pybind11;

namespace gradsift {
namespace {

// Of a block of threads on sm_80. Cards with more keep the same layout; sm_86, sm_89 and sm_120 have 99 KiB.
constexpr int64_t kSharedBytes = 163 << 10;

struct Columns {
    ColumnPlan plan;
    uintptr_t targets;
};

Columns make_columns(uintptr_t targets, int columns, int64_t proj_dim, int format, int64_t shared_bytes) {
    const int planes = planes_needed(format, pointer<const float>(targets), proj_dim, columns);
    return {plan_columns(format, proj_dim, columns, planes, std::min(shared_bytes, kSharedBytes)), targets};
}

void pack(const Columns& columns, uintptr_t packed, uintptr_t scale) {
    pack_columns(columns.plan, pointer<const float>(columns.targets), pointer<uint8_t>(packed), pointer<float>(scale));
}

// (columns, packed, column scale, targets, rows, bytes from row to row, scales, weight)
using PartTuple = std::tuple<const Columns*, uintptr_t, uintptr_t, uintptr_t, uintptr_t, int64_t, uintptr_t, double>;

void run(const std::tuple<int, uintptr_t>& place, const std::vector<PartTuple>& parts, int64_t n, int reduce,
         uintptr_t excluded, uint8_t hide, uintptr_t influence, uintptr_t best, uintptr_t status,
         const MatrixTuple& scores) {
    require(reduce == 0 || reduce == 1, "reduce: expected 0 (max) or 1 (mean), got ", reduce);
    ScoreRowsCuda call;
    call.place = {std::get<0>(place), std::get<1>(place)};
    for (const auto& [columns, packed, scale, targets, rows, stride_bytes, scales, weight] : parts) {
        call.parts.push_back({&columns->plan, pointer<const uint8_t>(packed), pointer<const float>(scale),
                              pointer<const float>(targets), pointer<const uint8_t>(rows), stride_bytes,
                              pointer<const float>(scales), weight});
    }
    call.n = n;
    call.mean = reduce == 1;
    call.excluded = pointer<const uint8_t>(excluded);
    call.hide = hide;
    call.influence = pointer<float>(influence);
    call.best = pointer<int32_t>(best);
    call.status = pointer<uint8_t>(status);
    call.scores = pointer<float>(std::get<0>(scores));
    call.scores_stride = std::get<1>(scores);
    const GilReleased no_gil;
    score_rows_cuda(call);
}

// (state, counts, influence, row, best, capacity, k, largest block)
using TopTuple = std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, int64_t, int64_t, int64_t>;

TopRowsCuda top_of(const std::tuple<int, uintptr_t>& place, const TopTuple& top) {
    const auto& [state, counts, influence, row, best, capacity, k, largest_block] = top;
    return {{std::get<0>(place), std::get<1>(place)},
            pointer<void>(state),
            pointer<int32_t>(counts),
            pointer<float>(influence),
            pointer<int64_t>(row),
            pointer<int32_t>(best),
            capacity,
            k,
            largest_block};
}

void add_top(const std::tuple<int, uintptr_t>& place, const TopTuple& top, uintptr_t influence, uintptr_t best,
             int64_t n, int64_t first_row) {
    top_rows_add(top_of(place, top), pointer<const float>(influence), pointer<const int32_t>(best), n, first_row);
}

void finish_top(const std::tuple<int, uintptr_t>& place, const TopTuple& top) { top_rows_finish(top_of(place, top)); }

}  // namespace

void bind_cuda_score_rows(py::module_& m) {
    py::class_<Columns>(m, "CudaScoreColumns")
        .def(py::init(&make_columns), py::kw_only(), py::arg("targets"), py::arg("columns"), py::arg("proj_dim"),
             py::arg("format"), py::arg("shared_bytes"), py::call_guard<GilReleased>())
        .def_property_readonly("packed_bytes", [](const Columns& self) { return self.plan.bytes; })
        .def_property_readonly("planes", [](const Columns& self) { return self.plan.planes; })
        .def_property_readonly("groups", [](const Columns& self) { return self.plan.groups.size(); })
        .def("pack", &pack, py::kw_only(), py::arg("packed"), py::arg("scale"), py::call_guard<GilReleased>());
    m.def("cuda_score_rows", &run, py::kw_only(), py::arg("place"), py::arg("parts"), py::arg("n"), py::arg("reduce"),
          py::arg("excluded"), py::arg("hide"), py::arg("influence"), py::arg("best"), py::arg("status"),
          py::arg("scores"));
    m.def("cuda_top_rows_add", &add_top, py::call_guard<GilReleased>(), py::kw_only(), py::arg("place"), py::arg("top"),
          py::arg("influence"), py::arg("best"), py::arg("n"), py::arg("first_row"));
    m.def("cuda_top_rows_finish", &finish_top, py::call_guard<GilReleased>(), py::kw_only(), py::arg("place"),
          py::arg("top"));
}

}  // namespace gradsift
