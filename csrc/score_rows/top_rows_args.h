// Between score_rows_cuda.cpp and the kernels of top_rows.cu.
#pragma once
#include <stdint.h>

namespace gradsift {

constexpr int kTopThreads = 256;
constexpr int kTopRows = 2048;  // that one block of threads looks at
constexpr int kTopCutThreads = 1024;

/// The best rows so far lie in the order of their numbers, which is that of the scan: among equal scores the first
/// wins.
struct TopState {
    int64_t count;       // rows kept
    uint32_t threshold;  // the key of the k-th best at the last cut: later rows must be above it
    uint32_t unused;
};

struct TopRowsArgs {
    const float* influence;  // n; NaN: passed over
    const int32_t* best;     // n
    int64_t n;
    int64_t first_row;
    TopState* state;
    int32_t* counts;  // one for each kTopRows rows
    int64_t blocks;   // how many these are
    float* kept_influence;
    int64_t* kept_row;
    int32_t* kept_best;
    int64_t k;
    int64_t room;  // rows above which the kept are cut to k
};

}  // namespace gradsift
