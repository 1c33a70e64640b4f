#pragma once
#include <cstdint>
#include <vector>

#include "cuda/launch.h"
#include "score_rows/cuda_columns.h"

namespace gradsift {

/// ScoreRows on a card: every address but those of plans is device memory, and the call returns before the work is
/// done.
///
/// Products on the tensor cores, sums of a unit of 16 to 128 numbers there and from unit to unit in float32; the order
/// depends on P alone, so that equal rows score equally wherever they lie. Checkpoints are added in float32.
struct ScoreRowsCuda {
    struct Part {
        const ColumnPlan* plan = nullptr;
        const uint8_t* columns = nullptr;     // as pack_columns lays them out, aligned to 16
        const float* column_scale = nullptr;  // aligned to 8
        const float* targets = nullptr;       // (S, P) contiguous; rows of floats only
        const uint8_t* rows = nullptr;        // as stored
        int64_t stride_bytes = 0;
        const float* scales = nullptr;  // n, of quantised rows
        double weight = 1.0;
    };
    cuda::Place place;
    std::vector<Part> parts;  // at most 32
    int64_t n = 0;
    bool mean = false;                  // over columns; else the maximum
    const uint8_t* excluded = nullptr;  // n, nonzero: outputs are NaN; or null
    uint8_t hide = 0;                   // status bits that make outputs NaN, beside those that do in any case
    float* influence = nullptr;         // n
    int32_t* best = nullptr;            // n
    uint8_t* status = nullptr;          // n
    float* scores = nullptr;            // (n, S); null only with one part, and for a mean with one group of columns
    int64_t scores_stride = 0;
};

void score_rows_cuda(const ScoreRowsCuda& call);

/// The best `k` of the rows of a scan, kept on a card. Blocks of rows come in the order of their numbers.
///
/// state        16 bytes, zeros at first
/// counts       one int32 for each 2,048 rows of a block
/// influence, row, best   room for `capacity` rows, at least k and the rows of a block
struct TopRowsCuda {
    cuda::Place place;
    void* state = nullptr;
    int32_t* counts = nullptr;
    float* kept_influence = nullptr;
    int64_t* kept_row = nullptr;
    int32_t* kept_best = nullptr;
    int64_t capacity = 0, k = 0;
    int64_t largest_block = 0;
};

/// Adds n rows, the first of which is `first_row`. NaN is passed over.
void top_rows_add(const TopRowsCuda& top, const float* influence, const int32_t* best, int64_t n, int64_t first_row);

/// Leaves the best k alone, or all where there are fewer, in the order of their numbers.
void top_rows_finish(const TopRowsCuda& top);

}  // namespace gradsift
