#include "common/projection.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "common/check.h"
#include "common/isa_table.h"
#include "common/parallel.h"
#include "common/philox_list.h"

namespace gradsift {
namespace {

constexpr uint32_t kMaskKey = 0x58535742;
constexpr uint32_t kRepeatKey = 0x9E3779B9;

constexpr IsaTable<PhiloxListFn> kPhilox = {
    .scalar = philox_list_scalar,
#if GRADSIFT_BUILD_AVX2
    .avx2 = philox_list_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
    .avx512 = philox_list_avx512,
#endif
};

/// The Philox blocks of each row that `row_at` names and `blocks` columns from `first_block` on: the block of row k and
/// column j is handed to take(k, j, words).
template <class RowAt, class Take>
void draw(const uint32_t (&key)[2], uint64_t param_id, int64_t rows, const RowAt& row_at, int64_t first_block,
          int64_t blocks, const Take& take) {
    constexpr int64_t kAtOnce = 128;
    uint32_t third[kAtOnce], fourth[kAtOnce], drawn[kAtOnce][4];
    const PhiloxListFn philox = kPhilox.pick(active_isa());
    int64_t count = 0;                 // to be drawn
    int64_t taken_row = 0, taken = 0;  // where the next drawn block belongs
    const auto flush = [&] {
        philox({{key[0], key[1]},
                {static_cast<uint32_t>(param_id), static_cast<uint32_t>(param_id >> 32)},
                third,
                fourth,
                count,
                drawn});
        for (int64_t n = 0; n < count; ++n) {
            take(taken_row, taken, drawn[n]);
            if (++taken == blocks) {
                taken = 0;
                ++taken_row;
            }
        }
        count = 0;
    };
    for (int64_t k = 0; k < rows; ++k) {
        const auto number = static_cast<uint32_t>(row_at(k));
        for (int64_t block = first_block; block < first_block + blocks; ++block) {
            third[count] = number;
            fourth[count] = static_cast<uint32_t>(block);
            if (++count == kAtOnce) flush();
        }
    }
    if (count > 0) flush();
}

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

SketchPlan sketch_plan(const Projection& projection, uint64_t param_id, int64_t cols) {
    const int64_t chunk_rows = std::min(projection.proj_dim, kBlockDim) / kBlockCols;
    SketchPlan plan{};
    plan.kind = projection.kind;
    plan.nonzeros = projection.nonzeros;
    plan.proj_dim = projection.proj_dim;
    plan.chunk_rows = chunk_rows;
    plan.chunk_rows_log2 = std::countr_zero(static_cast<uint64_t>(chunk_rows));
    plan.col_blocks = (cols + kBlockCols - 1) / kBlockCols;
    plan.param_id[0] = static_cast<uint32_t>(param_id);
    plan.param_id[1] = static_cast<uint32_t>(param_id >> 32);
    plan.seed[0] = static_cast<uint32_t>(projection.seed);
    plan.seed[1] = static_cast<uint32_t>(projection.seed >> 32);
    return plan;
}

void draw_blocks(const Projection& projection, uint64_t param_id, const RowList& rows, int64_t first_block,
                 int64_t blocks, uint32_t (*signs)[4], uint32_t* masks) {
    const SketchPlan plan = sketch_plan(projection, param_id, 0);
    const auto chunk_of = [&](int64_t k) { return rows.at(k) >> plan.chunk_rows_log2; };
    std::array<int64_t, kPanelRuns + 1> starts;  // of each group of rows in one chunk
    int64_t chunks = 0;
    for (int64_t k = 0; k < rows.count; ++k) {
        if (k == 0 || chunk_of(k) != chunk_of(k - 1)) starts[static_cast<size_t>(chunks++)] = k;
    }
    starts[static_cast<size_t>(chunks)] = rows.count;
    for (int repeat = 0; repeat < projection.nonzeros; ++repeat) {
        const uint32_t high = plan.seed[1] ^ (kRepeatKey * static_cast<uint32_t>(repeat));
        draw(
            {plan.seed[0], high}, param_id, rows.count, [&](int64_t k) { return rows.at(k); }, first_block, blocks,
            [&](int64_t k, int64_t j, const uint32_t (&words)[4]) { std::copy_n(words, 4, signs[k * blocks + j]); });
        // Neighbouring rows mostly share a chunk, whose masks are drawn once.
        draw(
            {plan.seed[0], high ^ kMaskKey}, param_id, chunks,
            [&](int64_t c) { return chunk_of(starts[static_cast<size_t>(c)]); }, first_block, blocks,
            [&](int64_t c, int64_t j, const uint32_t (&words)[4]) {
                masks[starts[static_cast<size_t>(c)] * blocks + j] = words[0];
            });
        for (int64_t c = 0; c < chunks; ++c) {
            const int64_t first = starts[static_cast<size_t>(c)];
            for (int64_t k = first + 1; k < starts[static_cast<size_t>(c) + 1]; ++k) {
                std::copy_n(masks + first * blocks, blocks, masks + k * blocks);
            }
        }
        signs += rows.count * blocks;
        masks += rows.count * blocks;
    }
}

ProjectionTables::ProjectionTables(const Projection& projection, uint64_t param_id, int64_t rows, int64_t cols,
                                   int threads)
    : plan_(sketch_plan(projection, param_id, cols)) {
    plan_.rows = rows;
    plan_.row_chunks = (rows + plan_.chunk_rows - 1) / plan_.chunk_rows;
    if (projection.kind != ProjectionKind::kXor) return;

    const SketchPlan& plan = plan_;
    signs_.resize(static_cast<size_t>(plan.nonzeros * plan.rows * plan.col_blocks * 4));
    masks_.resize(static_cast<size_t>(plan.nonzeros * plan.row_chunks * plan.col_blocks));
    auto* const signs = reinterpret_cast<uint32_t (*)[4]>(signs_.data());
    plan_.signs = signs;
    plan_.masks = masks_.data();
    for (int repeat = 0; repeat < plan.nonzeros; ++repeat) {
        const uint32_t high = plan.seed[1] ^ (kRepeatKey * static_cast<uint32_t>(repeat));
        const int64_t chunk_blocks = plan.chunk_rows * plan.col_blocks;
        parallel_for(plan.row_chunks, threads, [&](int64_t chunk) {
            const int64_t first = chunk * plan.chunk_rows;
            const auto sign_row = [&](int64_t k) { return first + k; };
            auto* const into = signs + repeat * plan.rows * plan.col_blocks + chunk * chunk_blocks;
            draw({plan.seed[0], high}, param_id, std::min(plan.chunk_rows, rows - first), sign_row, 0, plan.col_blocks,
                 [&](int64_t k, int64_t j, const uint32_t (&words)[4]) {
                     std::copy_n(words, 4, into[k * plan.col_blocks + j]);
                 });
            uint32_t* const masks = masks_.data() + (repeat * plan.row_chunks + chunk) * plan.col_blocks;
            draw(
                {plan.seed[0], high ^ kMaskKey}, param_id, 1, [&](int64_t) { return chunk; }, 0, plan.col_blocks,
                [&](int64_t, int64_t j, const uint32_t (&words)[4]) { masks[j] = words[0]; });
        });
    }
}

}  // namespace gradsift
