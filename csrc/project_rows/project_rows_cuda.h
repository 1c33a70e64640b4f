#pragma once
#include <cstdint>

#include "common/gamma.h"
#include "common/matrix_view.h"
#include "common/projection.h"
#include "cuda/launch.h"

namespace gradsift {

/// Of gradients on a card.
enum class CudaDtype : int { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };

/// ProjectRows on a card: every address is device memory, and the call returns before the work is done.
///
/// longest     the most rows that a sample lists; sparse only
/// row_ids, cu_seqlens   not looked at here: the caller has checked them
/// scratch     project_rows_cuda_scratch bytes, aligned to 16
/// Sums in float32 in an order that the sample's shape alone decides: the same bits for every batch split, stream and
/// card. No atomics.
struct ProjectRowsCuda {
    cuda::Place place;
    const void* grads = nullptr;
    CudaDtype dtype = CudaDtype::kFloat32;
    int64_t sample_stride = 0, row_stride = 0;
    int64_t rows = 0, cols = 0;
    const int64_t* row_ids = nullptr;
    const int64_t* cu_seqlens = nullptr;
    int64_t longest = 0;
    Projection projection;
    uint64_t param_id = 0;
    Gamma gamma;
    MomentView first, second;
    MatrixView<float> sketches;
    MatrixView<double> norms;
    bool accumulate = false;
    void* scratch = nullptr;
    int64_t scratch_bytes = 0;
};

void project_rows_cuda(const ProjectRowsCuda& call);

/// `rows` is the most that a sample has or lists.
int64_t project_rows_cuda_scratch(int64_t samples, int64_t rows, int64_t cols, int64_t proj_dim);

}  // namespace gradsift
