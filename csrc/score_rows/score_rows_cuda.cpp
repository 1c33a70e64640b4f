#include "score_rows/score_rows_cuda.h"

#include <algorithm>
#include <string>

#include "common/check.h"
#include "score_rows/top_rows_args.h"

namespace gradsift {
namespace {

// Of one SM, beside what two blocks of threads ask for.
constexpr int64_t kSharedOverhead = 1024;

const char* format_name(int format) {
    switch (format) {
        case kRowsFloat32:
            return "float32";
        case kRowsFloat16:
            return "float16";
        case kRowsBfloat16:
            return "bfloat16";
        case kRowsInt8:
            return "int8";
        case kRowsInt4:
            return "int4";
        default:
            return "int1";
    }
}

int64_t row_bytes(const ColumnPlan& plan) { return plan.dim * score_format(plan.format).number_bits / 8; }

void check(const ScoreRowsCuda& call) {
    const int64_t parts = static_cast<int64_t>(call.parts.size());
    require(parts >= 1 && parts <= kMaxParts, "parts: expected 1 … ", kMaxParts, " checkpoints, got ", parts);
    require(call.n >= 0, "n: expected a count >= 0, got ", call.n);
    require(call.scores != nullptr || (parts == 1 && (!call.mean || call.parts[0].plan->groups.size() == 1)),
            "scores: expected room for scores between launches, got none");
    const int columns = call.parts[0].plan->columns;
    require(call.scores == nullptr || call.scores_stride >= columns, "scores: expected rows ", columns,
            " numbers apart or more, got ", call.scores_stride);
    for (const ScoreRowsCuda::Part& part : call.parts) {
        require(part.plan->columns == columns, "targets: expected ", columns, " columns in each part, got ",
                part.plan->columns);
        require(part.plan->dim == call.parts[0].plan->dim, "targets: expected one number of dimensions, got ",
                part.plan->dim);
        require((part.plan->format >= kRowsInt8) == (call.parts[0].plan->format >= kRowsInt8),
                "rows: expected quantised rows at every checkpoint or at none");
        require(reinterpret_cast<uintptr_t>(part.columns) % 16 == 0, "columns: expected an address that 16 divides");
        require(part.stride_bytes >= row_bytes(*part.plan) || call.n <= 1, "rows: expected rows ",
                row_bytes(*part.plan), " bytes apart or more, got ", part.stride_bytes);
    }
}

void check_memory(const ScoreRowsCuda& call) {
    const int device = call.place.device;
    for (const ScoreRowsCuda::Part& part : call.parts) {
        cuda::check_pointer("rows", part.rows, device);
        cuda::check_pointer("columns", part.columns, device);
        cuda::check_pointer("column_scale", part.column_scale, device);
        const bool codes = part.plan->format >= kRowsInt8;
        cuda::check_pointer(codes ? "scales" : "targets", codes ? part.scales : part.targets, device);
    }
    cuda::check_pointer("influence", call.influence, device);
    cuda::check_pointer("best", call.best, device);
    cuda::check_pointer("status", call.status, device);
    if (call.scores != nullptr) cuda::check_pointer("scores", call.scores, device);
    if (call.excluded != nullptr) cuda::check_pointer("excluded", call.excluded, device);
}

/// How many blocks of threads share an SM, and how many stages each then has.
struct Shape {
    int blocks, stages;
};

Shape shape_of(const ColumnPlan& plan, const ColumnGroup& group, int64_t shared_bytes) {
    const int64_t half = (shared_bytes - kSharedOverhead) / 2;
    // Few columns need few registers: two blocks fit, and one multiplies while the other waits.
    if (group.kernel_tiles == 2 && stages_that_fit(plan, group, half) >= 2) {
        return {2, stages_that_fit(plan, group, half)};
    }
    return {1, stages_that_fit(plan, group, shared_bytes)};
}

void launch_group(const ScoreRowsCuda& call, size_t c, const ColumnGroup& group) {
    const ScoreRowsCuda::Part& part = call.parts[c];
    const ColumnPlan& plan = *part.plan;
    const bool last = c + 1 == call.parts.size();
    const cuda::DeviceInfo& device = cuda::device_info(call.place.device);
    const Shape shape = shape_of(plan, group, device.shared_bytes);
    // The kernels wait for one stage while another is copied.
    require(shape.stages >= 2, "columns: expected a layout for blocks of threads with ", device.shared_bytes,
            " bytes of shared memory, got one whose stages take ", stage_bytes(plan, group), " bytes");
    ScoreRowsArgs args{};
    args.rows = part.rows;
    args.row_stride = part.stride_bytes;
    args.row_bytes = row_bytes(plan);
    args.n = call.n;
    args.columns = part.columns + group.offset;
    args.column_scale = part.column_scale + 2 * group.first;
    args.scales = part.scales;
    args.totals = call.scores;
    args.totals_stride = call.scores_stride;
    args.influence = call.influence;
    args.best = call.best;
    args.status = call.status;
    args.weight = part.weight;
    args.stages_of_row = group.stages_of_row;
    std::copy_n(plan.plane_weight, kMaxPlanes, args.plane_weight);
    args.planes = plan.planes;
    args.tiles = group.used_tiles;
    args.n_columns = group.count;
    args.first_column = group.first;
    args.all_columns = plan.columns;
    args.stages = shape.stages;
    args.aligned = reinterpret_cast<uintptr_t>(part.rows) % 16 == 0 && part.stride_bytes % 16 == 0;
    args.codes = static_cast<int>(plan.dim);
    args.add = c > 0;
    args.reduce = !last ? 0 : call.mean ? 2 : 1;
    args.first_status = c == 0 && group.first == 0;
    const std::string name =
        std::string("score_rows_") + format_name(plan.format) + "_" + std::to_string(8 * group.kernel_tiles);
    const int64_t tiles = (call.n + kScoreRowsAtOnce - 1) / kScoreRowsAtOnce;
    const int64_t blocks = std::min<int64_t>(tiles, int64_t{device.multiprocessors} * shape.blocks);
    const cuda::Grid grid{static_cast<unsigned>(blocks), 1, 1, kScoreThreads,
                          static_cast<size_t>(shape.stages * stage_bytes(plan, group))};
    cuda::launch("score_rows", name.c_str(), call.place, grid, args);
}

void launch_finish(const ScoreRowsCuda& call) {
    ScoreFinishArgs args{};
    args.parts = static_cast<int>(call.parts.size());
    for (size_t c = 0; c < call.parts.size(); ++c) {
        const ScoreRowsCuda::Part& part = call.parts[c];
        args.rows[c] = part.rows;
        args.row_stride[c] = part.stride_bytes;
        args.targets[c] = part.targets;
        args.weight[c] = part.weight;
        args.format[c] = part.plan->format;
    }
    const ColumnPlan& plan = *call.parts[0].plan;
    args.n = call.n;
    args.dim = plan.dim;
    args.all_columns = plan.columns;
    args.mean = call.mean;
    args.hide = call.hide | kStatusNonfinite;
    args.excluded = call.excluded;
    args.influence = call.influence;
    args.best = call.best;
    args.status = call.status;
    args.scores = call.scores;
    args.scores_stride = call.scores_stride;
    const int64_t most = int64_t{cuda::device_info(call.place.device).multiprocessors} * 8;
    const int64_t blocks = std::min((call.n + kFinishThreads - 1) / kFinishThreads, most);
    cuda::launch("score_finish", "score_finish", call.place, {static_cast<unsigned>(blocks), 1, 1, kFinishThreads, 0},
                 args);
}

TopRowsArgs top_args(const TopRowsCuda& top) {
    TopRowsArgs args{};
    args.state = static_cast<TopState*>(top.state);
    args.counts = top.counts;
    args.kept_influence = top.kept_influence;
    args.kept_row = top.kept_row;
    args.kept_best = top.kept_best;
    args.k = top.k;
    return args;
}

}  // namespace

void score_rows_cuda(const ScoreRowsCuda& call) {
    check(call);
    if (call.n == 0) return;
    check_memory(call);
    for (size_t c = 0; c < call.parts.size(); ++c) {
        for (const ColumnGroup& group : call.parts[c].plan->groups) launch_group(call, c, group);
    }
    launch_finish(call);
}

void top_rows_add(const TopRowsCuda& top, const float* influence, const int32_t* best, int64_t n, int64_t first_row) {
    require(top.k >= 1, "k: expected at least 1, got ", top.k);
    require(n >= 0 && n <= top.largest_block, "n: expected at most ", top.largest_block, " rows, got ", n);
    require(top.capacity >= top.k + top.largest_block, "capacity: expected ", top.k + top.largest_block, ", got ",
            top.capacity);
    if (n == 0) return;
    const int device = top.place.device;
    cuda::check_pointer("influence", influence, device);
    cuda::check_pointer("best", best, device);
    cuda::check_pointer("state", top.state, device);
    TopRowsArgs args = top_args(top);
    args.influence = influence;
    args.best = best;
    args.n = n;
    args.first_row = first_row;
    args.blocks = (n + kTopRows - 1) / kTopRows;
    args.room = top.capacity - top.largest_block;
    const auto blocks = static_cast<unsigned>(args.blocks);
    cuda::launch("top_rows", "top_rows_count", top.place, {blocks, 1, 1, kTopThreads, 0}, args);
    cuda::launch("top_rows", "top_rows_add", top.place, {blocks, 1, 1, kTopThreads, 0}, args);
    cuda::launch("top_rows", "top_rows_cut", top.place, {1, 1, 1, kTopCutThreads, 0}, args);
}

void top_rows_finish(const TopRowsCuda& top) {
    TopRowsArgs args = top_args(top);
    args.room = top.k;
    cuda::launch("top_rows", "top_rows_cut", top.place, {1, 1, 1, kTopCutThreads, 0}, args);
}

}  // namespace gradsift
