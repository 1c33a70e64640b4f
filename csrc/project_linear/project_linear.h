#pragma once
#include <cstdint>

#include "common/gamma.h"
#include "common/matrix_view.h"
#include "common/projection.h"

namespace gradsift {

/// sketches[b] = S · Γ(G_b), G_b = Σ_t output_grads[b, t] ⊗ activations[b, t], for the weight (d_out, d_in).
///
/// activations   (…, d_in), output_grads (…, d_out): rows as in RowsView, float32 or bfloat16 alike
/// cu_seqlens    (samples + 1): sample b has cu_seqlens[b+1] − cu_seqlens[b] tokens, in packed views from row
///               cu_seqlens[b], in `padded` ones, which have a sample stride, from row 0 of its own
/// moments       (d_out, d_in) each, contiguous; read only where `gamma` does
/// sketches      (samples, P) float32, norms (samples, 2) float64 or none; overwritten, or added to if `accumulate`;
///               must not overlap an input
///
/// G_b is formed tile by tile and never stored. Accumulates in float32 over tokens in one order (docs/numerics.md). The
/// same bits for every number of threads and every split of the batch. Throws std::invalid_argument.
struct ProjectLinear {
    RowsView activations;
    RowsView output_grads;
    const int64_t* cu_seqlens = nullptr;
    bool padded = false;
    Projection projection;
    uint64_t param_id = 0;
    Gamma gamma;
    MomentView first, second;
    MatrixView<float> sketches;
    MatrixView<double> norms;
    bool accumulate = false;
    int threads = 1;
};

void project_linear(const ProjectLinear& call);

}  // namespace gradsift
