#pragma once
#include <stddef.h>
#include <stdint.h>

namespace gradsift {

/// Rows of float32 as a datastore keeps them in bfloat16, with what it must know of each row, in one pass.
struct RoundRows {
    const float* rows;  // (n, cols), `stride` elements from row to row
    int64_t n, cols, stride;
    uint16_t* out;      // (n, cols), contiguous, overwritten
    uint32_t* largest;  // (n,): the largest bit pattern without its sign; NaN is above Inf, Inf above all numbers
};

/// out[r, c] is the upper half of rows[r, c], rounded to nearest even; a NaN stays one, with its quiet bit set.
/// Throws std::invalid_argument on negative sizes or overlapping rows.
void round_rows(const RoundRows& call);

void round_rows_scalar(const RoundRows& call);
void round_rows_neon(const RoundRows& call);
void round_rows_avx2(const RoundRows& call);
void round_rows_avx512(const RoundRows& call);

}  // namespace gradsift
