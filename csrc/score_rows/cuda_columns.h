#pragma once
#include <cstdint>
#include <vector>

#include "score_rows/score_rows_args.h"

namespace gradsift {

/// Columns that one launch meets.
struct ColumnGroup {
    int first, count;
    int kernel_tiles;  // 2, 8 or 16: which kernel
    int used_tiles;    // even
    int64_t stages_of_row;
    int64_t offset;  // bytes into what is packed
};

/// How the target columns of one checkpoint lie in a card's memory.
struct ColumnPlan {
    int format = 0;
    int64_t dim = 0;
    int columns = 0;
    int planes = 0;
    float plane_weight[kMaxPlanes] = {};
    std::vector<ColumnGroup> groups;
    int64_t bytes = 0;
};

/// The fewest planes that columns (S, P) float32 are held in. For rows of floats a score is off by less than 8e-7: no
/// number by more than that, nor six times what a row that knows nothing of the column makes of all. For codes, which
/// are spread over all numbers by their rotation, only the latter, and 2e-5. Throws std::invalid_argument on an unknown
/// format.
int planes_needed(int format, const float* targets, int64_t dim, int columns);

/// `shared_bytes` is what a block of threads may have on the card; groups are cut so that two stages fit.
ColumnPlan plan_columns(int format, int64_t dim, int columns, int planes, int64_t shared_bytes);

/// Writes plan.bytes bytes, and 2 · columns floats: a column's step, and the sum of its numbers in steps (one bit).
void pack_columns(const ColumnPlan& plan, const float* targets, uint8_t* packed, float* column_scale);

/// Stages of the pipeline for one group, given what a block may have.
int stages_that_fit(const ColumnPlan& plan, const ColumnGroup& group, int64_t shared_bytes);

int64_t stage_bytes(const ColumnPlan& plan, const ColumnGroup& group);

}  // namespace gradsift
