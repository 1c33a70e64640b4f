#include "project_rows/project_rows_cuda.h"

#include <algorithm>
#include <bit>
#include <string>

#include "common/check.h"
#include "common/preconditions.h"
#include "project_rows/project_rows_args.h"

namespace gradsift {
namespace {

constexpr int64_t kMaxGridZ = 65535;
// Three blocks of such a size fit on an SM of every card from sm_80 on, beside their lists of runs.
constexpr int64_t kSharedFloats = int64_t{1} << 14;

int64_t size_of(CudaDtype dtype) { return dtype == CudaDtype::kFloat32 ? 4 : 2; }

void check(const ProjectRowsCuda& call) {
    check_projection(call.projection);
    check_gamma(call.gamma);
    check_output(call.sketches, call.norms, call.projection.proj_dim, 1);
    check_moments(call.gamma.kind, call.first, call.second);
    require(call.projection.kind == ProjectionKind::kXor,
            "spec: expected a projection of kind 'xor' on a CUDA device, got 'rademacher'; move the arrays to the CPU");
    const int dtype = static_cast<int>(call.dtype);
    require(dtype >= 0 && dtype <= 2, "grads: expected dtype 0 (float32), 1 (bfloat16) or 2 (float16), got ", dtype);
    require(call.rows >= 0 && call.cols >= 0, "shape: expected counts >= 0, got ", call.rows, " and ", call.cols);
    require((call.row_ids == nullptr) == (call.cu_seqlens == nullptr),
            "row_ids: expected together with cu_seqlens or not at all");
    // A kernel numbers the runs of a band of chunks, which may have more rows than the parameter, in 32 bits.
    const int64_t rows = std::max(call.rows, std::min(call.projection.proj_dim, kBlockDim) / kBlockCols);
    require(rows <= int64_t{1} << 32 && (call.cols + 127) / 128 < ((int64_t{1} << 32) + rows - 1) / rows,
            "shape: expected fewer than 2**32 runs of 128 entries, counting ", rows, " rows, got ", call.rows, " by ",
            call.cols);
}

/// Device memory, where anything is read or written.
void check_memory(const ProjectRowsCuda& call) {
    const int device = call.place.device;
    const auto check = [&](const char* name, const void* pointer, bool used) {
        if (used) cuda::check_pointer(name, pointer, device);
    };
    check("grads", call.grads, call.rows * call.cols > 0);
    check("row_ids", call.row_ids, call.row_ids != nullptr && call.longest > 0);
    check("cu_seqlens", call.cu_seqlens, call.cu_seqlens != nullptr);
    check("moments[0]", call.first.data, reads_first_moment(call.gamma.kind) && call.rows * call.cols > 0);
    check("moments[1]", call.second.data, reads_second_moment(call.gamma.kind) && call.rows * call.cols > 0);
    check("out", call.sketches.data, true);
    check("norms", call.norms.data, static_cast<bool>(call.norms));
    check("scratch", call.scratch, call.scratch_bytes > 0);
}

/// Whether all of a row, wherever it lies, can be read by fours.
bool aligned(const ProjectRowsCuda& call) {
    const auto begins = [](const void* address, int64_t size) {
        return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(4 * size) == 0;
    };
    const int64_t moment_size = gradsift::size_of(call.second.dtype);
    return call.cols % 4 == 0 && call.row_stride % 4 == 0 && call.sample_stride % 4 == 0 &&
           begins(call.grads, size_of(call.dtype)) && begins(call.first.data, moment_size) &&
           begins(call.second.data, moment_size);
}

const char* dtype_text(CudaDtype dtype) {
    return dtype == CudaDtype::kFloat32 ? "f32" : dtype == CudaDtype::kBfloat16 ? "bf16" : "f16";
}

ProjectRowsArgs arguments(const ProjectRowsCuda& call, int64_t max_slices, int64_t part_dim) {
    ProjectRowsArgs args{};
    args.grads = call.grads;
    args.sample_stride = call.sample_stride;
    args.row_stride = call.row_stride;
    args.rows = call.rows;
    args.cols = call.cols;
    args.row_ids = call.row_ids;
    args.cu_seqlens = call.cu_seqlens;
    args.samples = call.sketches.rows;
    const SketchPlan plan = sketch_plan(call.projection, call.param_id, call.cols);
    args.proj_dim = plan.proj_dim;
    args.part_dim = static_cast<int>(part_dim);
    args.chunk_rows_log2 = plan.chunk_rows_log2;
    args.nonzeros = plan.nonzeros;
    std::copy_n(plan.param_id, 2, args.param_id);
    std::copy_n(plan.seed, 2, args.seed);
    const GammaTerms terms = gamma_terms(call.gamma);
    const bool adaptive = terms.kind == GammaKind::kAdam || terms.kind == GammaKind::kLess;
    args.map = reads_second_moment(terms.kind)  ? RowsMap::kQuotient
               : terms.kind == GammaKind::kSign ? RowsMap::kSign
                                                : RowsMap::kIdentity;
    args.reads_first = reads_first_moment(terms.kind);
    args.first_m = terms.first_m;
    args.first_g = terms.first_g;
    args.second_v = terms.second_v;
    args.second_g = adaptive ? terms.second_g : 0.0f;
    args.inner_eps = terms.inner_eps;
    args.eps = terms.eps;
    args.first = call.first.data;
    args.second = call.second.data;
    args.parts = plan.proj_dim / part_dim;
    args.max_slices = max_slices;
    args.direct = max_slices == 1 && args.parts == 1;
    args.accumulate = call.accumulate;
    args.scale = call.projection.scale();
    args.out = call.sketches.data;
    args.out_stride = call.sketches.row_stride;
    args.norms = call.norms.data;
    args.norm_stride = call.norms.row_stride;
    return args;
}

int64_t part_of(int64_t proj_dim) { return std::min<int64_t>(proj_dim, kBlockDim); }

/// The most slices that a sample of up to `rows` rows falls into. Fewer rows may make more of them: a slice that is
/// longer than the shortest is rounded up to whole batches.
int64_t most_slices(int64_t rows, int64_t cols, int64_t proj_dim) {
    const int64_t shortest = rows_cut(0, cols, proj_dim).slice, runs = rows_cut(rows, cols, proj_dim).runs;
    return std::clamp<int64_t>((runs + shortest - 1) / shortest, 1, kRowsMaxSlices);
}

}  // namespace

int64_t project_rows_cuda_scratch(int64_t samples, int64_t rows, int64_t cols, int64_t proj_dim) {
    const int64_t slices = most_slices(rows, cols, proj_dim), parts = proj_dim / part_of(proj_dim);
    if (slices == 1 && parts == 1) return 0;
    return samples * slices * (proj_dim * int64_t{sizeof(float)} + parts * 2 * int64_t{sizeof(double)});
}

void project_rows_cuda(const ProjectRowsCuda& call) {
    check(call);
    const int64_t samples = call.sketches.rows, dim = call.projection.proj_dim;
    if (samples == 0) return;
    const bool sparse = call.row_ids != nullptr;
    const int64_t rows = sparse ? call.longest : call.rows;
    const int64_t needed = project_rows_cuda_scratch(samples, rows, call.cols, dim);
    require(call.scratch_bytes >= needed, "scratch: expected ", needed, " bytes, got ", call.scratch_bytes);
    check_memory(call);

    const int64_t slices = most_slices(rows, call.cols, dim);
    ProjectRowsArgs args = arguments(call, slices, part_of(dim));
    args.partial_norms = static_cast<double*>(call.scratch);
    args.partials = reinterpret_cast<float*>(args.partial_norms + samples * slices * args.parts * 2);
    // Samples of one block share what it draws and the moments that it reads.
    const bool whole = aligned(call), pairs = whole && !sparse && samples > 1 && 2 * args.part_dim <= kSharedFloats;
    const int64_t group = pairs ? 2 : 1;
    std::string name = std::string("project_rows_") + dtype_text(call.dtype);
    if (args.map == RowsMap::kQuotient) {
        name += call.second.dtype == Dtype::kBfloat16 ? "_bf16" : "_f32";
    }
    name += pairs ? "_2" : whole ? "_1" : "_ragged";
    const auto shared = static_cast<size_t>(group * args.part_dim) * sizeof(float);
    // A grid has at most 65,535 blocks in z and in y.
    const int64_t most = kMaxGridZ;
    for (int64_t first = 0; first < samples; first += most) {
        ProjectRowsArgs some = args;
        some.samples = std::min(most, samples - first);
        some.grads = static_cast<const char*>(args.grads) + first * args.sample_stride * size_of(call.dtype);
        if (sparse) some.cu_seqlens += first;
        some.out += first * args.out_stride;
        if (args.norms != nullptr) some.norms += first * args.norm_stride;
        some.partials += first * slices * dim;
        some.partial_norms += first * slices * args.parts * 2;
        const auto blocks = static_cast<unsigned>((some.samples + group - 1) / group);
        const cuda::Grid grid{static_cast<unsigned>(slices), static_cast<unsigned>(args.parts), blocks, kRowsThreads,
                              shared};
        cuda::launch("project_rows", name.c_str(), call.place, grid, some);
        if (args.direct) continue;
        const cuda::Grid sums{static_cast<unsigned>(dim / kRowsThreads), static_cast<unsigned>(some.samples), 1,
                              kRowsThreads, 0};
        cuda::launch("project_rows", "project_rows_add_partials", call.place, sums, some);
    }
}

}  // namespace gradsift
