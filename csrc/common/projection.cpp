#include "common/projection.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "common/check.h"
#include "common/parallel.h"
#include "common/philox.h"

namespace gradsift {
namespace {

constexpr uint32_t kMaskKey = 0x58535742;
constexpr uint32_t kRepeatKey = 0x9E3779B9;

}  // namespace

float Projection::scale() const {
    const double squared = kind == ProjectionKind::kXor ? nonzeros : static_cast<double>(proj_dim);
    return static_cast<float>(1.0 / std::sqrt(squared));
}

void check_projection(const Projection& projection) {
    const int64_t dim = projection.proj_dim;
    require(projection.kind == ProjectionKind::kXor || projection.kind == ProjectionKind::kRademacher,
            "projection kind: expected 0 (xor) or 1 (rademacher), got ", static_cast<int>(projection.kind));
    require(dim >= 256 && dim <= 65536 && std::has_single_bit(static_cast<uint64_t>(dim)),
            "proj_dim: expected a power of two from 256 to 65536, got ", dim);
    const int s = projection.nonzeros;
    require(s == 1 || s == 2 || s == 4 || s == 8, "nonzeros: expected 1, 2, 4 or 8, got ", s);
    require(projection.kind == ProjectionKind::kXor || s == 1, "nonzeros: expected 1 for the rademacher kind, got ", s);
}

ProjectionTables::ProjectionTables(const Projection& projection, uint64_t param_id, int64_t rows, int64_t cols,
                                   const int64_t* row_ids, int64_t listed, int threads) {
    const int64_t chunk_rows = std::min(projection.proj_dim, kBlockDim) / kBlockCols;
    plan_.kind = projection.kind;
    plan_.nonzeros = projection.nonzeros;
    plan_.proj_dim = projection.proj_dim;
    plan_.chunk_rows = chunk_rows;
    plan_.chunk_rows_log2 = std::countr_zero(static_cast<uint64_t>(chunk_rows));
    plan_.sign_rows = row_ids != nullptr ? listed : rows;
    plan_.row_chunks = (rows + chunk_rows - 1) / chunk_rows;
    plan_.col_blocks = (cols + kBlockCols - 1) / kBlockCols;
    plan_.param_id[0] = static_cast<uint32_t>(param_id);
    plan_.param_id[1] = static_cast<uint32_t>(param_id >> 32);
    plan_.seed[0] = static_cast<uint32_t>(projection.seed);
    plan_.seed[1] = static_cast<uint32_t>(projection.seed >> 32);
    if (projection.kind != ProjectionKind::kXor) return;

    const SketchPlan& plan = plan_;
    signs_.resize(static_cast<size_t>(plan.nonzeros * plan.sign_rows * plan.col_blocks * 4));
    masks_.resize(static_cast<size_t>(plan.nonzeros * plan.row_chunks * plan.col_blocks));
    auto* const signs = reinterpret_cast<uint32_t (*)[4]>(signs_.data());
    plan_.signs = signs;
    plan_.masks = masks_.data();

    constexpr int64_t kRowsAtOnce = 64;
    const int64_t sign_jobs = (plan.sign_rows + kRowsAtOnce - 1) / kRowsAtOnce;
    for (int repeat = 0; repeat < plan.nonzeros; ++repeat) {
        const uint32_t high = plan.seed[1] ^ (kRepeatKey * static_cast<uint32_t>(repeat));
        parallel_for(sign_jobs, threads, [&](int64_t job) {
            const int64_t end = std::min(plan.sign_rows, (job + 1) * kRowsAtOnce);
            for (int64_t k = job * kRowsAtOnce; k < end; ++k) {
                const int64_t row = row_ids != nullptr ? row_ids[k] : k;
                philox_lanes(plan.param_id[0], plan.param_id[1], static_cast<uint32_t>(row), 0, plan.seed[0], high,
                             plan.col_blocks, signs + (repeat * plan.sign_rows + k) * plan.col_blocks);
            }
        });
        std::vector<uint32_t> line(static_cast<size_t>(plan.col_blocks * 4));
        auto* const blocks = reinterpret_cast<uint32_t (*)[4]>(line.data());
        for (int64_t chunk = 0; chunk < plan.row_chunks; ++chunk) {
            philox_lanes(plan.param_id[0], plan.param_id[1], static_cast<uint32_t>(chunk), 0, plan.seed[0],
                         high ^ kMaskKey, plan.col_blocks, blocks);
            uint32_t* const masks = masks_.data() + (repeat * plan.row_chunks + chunk) * plan.col_blocks;
            for (int64_t block = 0; block < plan.col_blocks; ++block) masks[block] = blocks[block][0];
        }
    }
}

}  // namespace gradsift
