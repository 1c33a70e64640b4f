// Between project_rows_cuda.cpp and its kernels: their arguments, and how a sample is cut. No C++ library header here.
#pragma once
#include <stdint.h>

#if defined(__CUDACC__)
#define GRADSIFT_BOTH __host__ __device__
#else
#define GRADSIFT_BOTH
#endif

namespace gradsift {

constexpr int kRowsThreads = 256;
constexpr int kRowsWarps = kRowsThreads / 32;
/// Runs, of 128 entries of a row, whose signs and masks are drawn at a time: half of the threads draw each.
constexpr int kRowsBatch = kRowsThreads / 2;
constexpr int kRowsMaxSlices = 1024;

/// How the runs of a sample fall into slices, one thread block each: by its shape alone, so that sums come out in one
/// order for every batch split and every card.
struct RowsCut {
    int64_t runs;   // of the sample
    int64_t slice;  // runs of a slice, a multiple of kRowsBatch
    int64_t count;  // of slices, at least 1
};

GRADSIFT_BOTH static inline RowsCut rows_cut(int64_t rows, int64_t cols, int64_t proj_dim) {
    RowsCut cut;
    cut.runs = rows * ((cols + 127) / 128);
    // A slice writes its partial sketch once and has it read once: an eighth of what it reads of float32 gradients.
    const int64_t worth = proj_dim / 8 > 512 ? proj_dim / 8 : 512;
    const int64_t even = (cut.runs + kRowsMaxSlices - 1) / kRowsMaxSlices;
    const int64_t slice = even > worth ? even : worth;
    cut.slice = (slice + kRowsBatch - 1) / kRowsBatch * kRowsBatch;
    const int64_t count = (cut.runs + cut.slice - 1) / cut.slice;
    cut.count = count > 1 ? count : 1;
    return cut;
}

/// What a kernel computes of a gradient: RowsMap.
enum class RowsMap : int { kIdentity, kSign, kQuotient };

struct ProjectRowsArgs {
    const void* grads;
    int64_t sample_stride, row_stride;  // in elements
    int64_t rows, cols;                 // of the parameter
    const int64_t* row_ids;             // sparse only
    const int64_t* cu_seqlens;
    int64_t samples;
    int64_t proj_dim;
    int part_dim;  // numbers of a sketch that a block keeps, a power of two: it skips runs that reach others
    int chunk_rows_log2;
    int nonzeros;
    uint32_t param_id[2], seed[2];

    RowsMap map;
    bool reads_first;
    float first_m, first_g, second_v, second_g, inner_eps, eps;
    const void* first;
    const void* second;

    // Finished sketches where every sample is one slice and every sketch one part, else partial ones.
    bool direct;
    bool accumulate;
    float scale;
    float* out;
    int64_t out_stride;
    double* norms;  // or null
    int64_t norm_stride;
    int64_t max_slices, parts;
    float* partials;        // (samples, max_slices, proj_dim)
    double* partial_norms;  // (samples, max_slices, parts, 2)
};

}  // namespace gradsift
