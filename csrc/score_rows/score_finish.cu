// After the scan of a block of rows: what float32 could not hold is scored in float64, and rows without influence get
// NaN.
#include "cuda/device.h"
#include "score_rows/best_column.h"
#include "score_rows/score_rows_args.h"

namespace gradsift {
namespace {

using namespace gradsift::cuda;

__device__ __forceinline__ double number(const uint8_t* row, int format, int64_t k) {
    if (format == kRowsFloat32) return reinterpret_cast<const float*>(row)[k];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(row)[k];
    return format == kRowsFloat16 ? half_to_float(bits) : bf16_to_float(bits);
}

/// The sum over the block, the same bits in every thread.
__device__ __forceinline__ double block_sum(double value, double* part) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
    __syncthreads();  // the last sum has been read
    if ((threadIdx.x & 31) == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0.0;
    for (int w = 0; w < kFinishThreads / 32; ++w) sum += part[w];
    return sum;
}

/// One row in float64, by all threads of a block.
__device__ __forceinline__ void score_again(const ScoreFinishArgs& args, int64_t row, double* part, double* norms) {
    const int thread = static_cast<int>(threadIdx.x);
    uint8_t status = 0;
    for (int c = 0; c < args.parts; ++c) {
        const uint8_t* const x = args.rows[c] + row * args.row_stride[c];
        double square = 0.0;
        for (int64_t k = thread; k < args.dim; k += kFinishThreads) {
            const double v = number(x, args.format[c], k);
            square += v * v;
        }
        square = block_sum(square, part);  // infinite or NaN exactly where a number is: float32 squares fit float64
        if (!(square - square == 0.0)) status |= kStatusNonfinite;
        if (square == 0.0) status |= kStatusZero;
        if (thread == 0) norms[c] = square > 0.0 ? sqrt(square) : 1.0;
    }
    __syncthreads();
    Best best{-INFINITY, args.all_columns};
    double sum = 0.0;
    for (int s = 0; s < args.all_columns; ++s) {
        double total = 0.0;
        for (int c = 0; c < args.parts; ++c) {
            const uint8_t* const x = args.rows[c] + row * args.row_stride[c];
            const float* const target = args.targets[c] + s * args.dim;
            double dot = 0.0;
            for (int64_t k = thread; k < args.dim; k += kFinishThreads) {
                dot += number(x, args.format[c], k) * static_cast<double>(target[k]);
            }
            total += args.weight[c] * (block_sum(dot, part) / norms[c]);
        }
        const float score = static_cast<float>(total);
        if (thread == 0 && args.scores != nullptr) args.scores[row * args.scores_stride + s] = score;
        best.see(score, s);
        sum += score;
    }
    if (thread == 0) {
        args.status[row] = status;
        args.influence[row] = args.mean ? static_cast<float>(sum / args.all_columns) : best.score;
        args.best[row] = best.column;
    }
    __syncthreads();
}

__device__ __forceinline__ void finish(const ScoreFinishArgs& args, uint8_t* marked, double* part, double* norms) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int64_t first = int64_t{blockIdx.x} * kFinishThreads; first < args.n;
         first += int64_t{gridDim.x} * kFinishThreads) {
        const int64_t row = first + thread;
        marked[thread] = row < args.n && (args.status[row] & kStatusAgain) != 0;
        __syncthreads();
        for (int i = 0; i < kFinishThreads; ++i) {
            if (marked[i]) score_again(args, first + i, part, norms);
        }
        if (row < args.n &&
            ((args.status[row] & args.hide) != 0 || (args.excluded != nullptr && args.excluded[row] != 0))) {
            const float nan = __uint_as_float(0x7fc00000u);
            args.influence[row] = nan;
            args.best[row] = 0;
            for (int s = 0; s < args.all_columns && args.scores != nullptr; ++s) {
                args.scores[row * args.scores_stride + s] = nan;
            }
        }
        __syncthreads();
    }
}

}  // namespace
}  // namespace gradsift

GRADSIFT_KERNEL(score_finish, gradsift::ScoreFinishArgs, 128) {
    GRADSIFT_SHARED(uint8_t, marked, gradsift::kFinishThreads);
    GRADSIFT_SHARED(double, part, gradsift::kFinishThreads / 32);
    GRADSIFT_SHARED(double, norms, gradsift::kMaxParts);
    gradsift::finish(args, marked, part, norms);
}
