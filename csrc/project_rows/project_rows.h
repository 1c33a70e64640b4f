#pragma once
#include <cstdint>

#include "common/gamma.h"
#include "common/matrix_view.h"
#include "common/projection.h"

namespace gradsift {

/// sketches[b] = S · Γ(G_b) for gradients that exist, G_b of the parameter's shape (rows, cols).
///
/// grads       whole:  sample stride between matrices, row stride between their rows
///             sparse: the listed rows of all samples one after the other, sample stride 0
/// row_ids     sparse only: which row of the parameter each listed row is, unique within a sample. Rows not listed are
///             left out: Γ is not applied to them, which matters where Γ(0) is not 0
/// cu_seqlens  sparse only: sample b lists the rows cu_seqlens[b] … cu_seqlens[b+1] − 1
/// moments, sketches, norms, accumulate, order of sums, errors: as in ProjectLinear
struct ProjectRows {
    RowsView grads;
    int64_t rows = 0;
    const int64_t* row_ids = nullptr;
    const int64_t* cu_seqlens = nullptr;
    Projection projection;
    uint64_t param_id = 0;
    Gamma gamma;
    MomentView first, second;
    MatrixView<float> sketches;
    MatrixView<double> norms;
    bool accumulate = false;
    int threads = 1;
};

void project_rows(const ProjectRows& call);

}  // namespace gradsift
