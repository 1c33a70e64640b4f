#include "common/preconditions.h"

#include "common/check.h"

namespace gradsift {
namespace {

void check_dtype(const char* argument, Dtype dtype) {
    require(dtype == Dtype::kFloat32 || dtype == Dtype::kBfloat16, argument,
            ": expected dtype 0 (float32) or 1 (bfloat16), got ", static_cast<int>(dtype));
}

}  // namespace

void check_rows(const char* argument, const RowsView& rows) {
    check_dtype(argument, rows.dtype);
    require(rows.cols >= 0, argument, ": expected a width >= 0, got ", rows.cols);
}

void check_offsets(const int64_t* cu_seqlens, int64_t samples) {
    require(cu_seqlens != nullptr, "cu_seqlens: expected ", samples + 1, " offsets, got none");
    require(cu_seqlens[0] == 0, "cu_seqlens: expected to begin with 0, got ", cu_seqlens[0]);
    for (int64_t b = 0; b < samples; ++b) {
        require(cu_seqlens[b + 1] >= cu_seqlens[b], "cu_seqlens: expected offsets that never fall, got ", cu_seqlens[b],
                " then ", cu_seqlens[b + 1], " at sample ", b);
    }
}

void check_moments(GammaKind kind, const MomentView& first, const MomentView& second) {
    if (reads_first_moment(kind)) {
        require(first.data != nullptr, "moments: expected the first moment, got none");
        check_dtype("moments[0]", first.dtype);
    }
    if (reads_second_moment(kind)) {
        require(second.data != nullptr, "moments: expected the second moment, got none");
        check_dtype("moments[1]", second.dtype);
        require(!reads_first_moment(kind) || first.dtype == second.dtype,
                "moments[1]: expected the dtype of moments[0]");
    }
}

void check_output(const MatrixView<float>& sketches, const MatrixView<double>& norms, int64_t proj_dim, int threads) {
    require(sketches.rows >= 0, "samples: expected a count >= 0, got ", sketches.rows);
    require(sketches || sketches.rows == 0, "out: expected (", sketches.rows, ", ", proj_dim, ") numbers, got none");
    require(sketches.row_stride >= proj_dim || sketches.rows <= 1, "out: expected rows at least ", proj_dim,
            " numbers apart, got ", sketches.row_stride);
    require(!norms || norms.row_stride >= 2 || norms.rows <= 1, "norms: expected rows at least 2 numbers apart, got ",
            norms.row_stride);
    require(threads >= 1, "threads: expected a count >= 1, got ", threads);
}

}  // namespace gradsift
