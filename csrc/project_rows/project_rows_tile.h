// The loop of project_rows, written once over Vec. Read by the per-ISA files after one of common/vec_*.h.
#pragma once
#include "common/sketch_row.h"
#include "project_rows/project_rows_kernel.h"

namespace gradsift {
namespace {

constexpr int kBlockVectors = kBlockCols / Vec::kLanes;

// Runs whose squares are added up in float32.
constexpr int kRunsInFloat = 16;

/// Γ, norms and signed add of one run of a block, of 128 entries if kWhole.
template <GammaKind kKind, bool kWhole, bool kOnce, class T, class M>
inline void add_run(const SketchPlan& plan, const GammaTerms& terms, int64_t row, int64_t col, int width,
                    const T* grads, const Moments<M>& moments, const uint32_t (*signs)[4], const uint32_t* masks,
                    int64_t repeat_stride, float* sketch, SquareSums& sums) {
    const int64_t line = row & (plan.chunk_rows - 1);
    if constexpr (kOnce) {
        const Chunk chunk(plan, *masks, sketch);
        add_row<kKind, kWhole ? kBlockVectors : 0>(grads, moments, width, terms, chunk, *signs, 0, chunk.line(line),
                                                   sums);
    } else {
        alignas(64) float mapped[kBlockCols];
        map_row<kKind>(grads, moments, width, terms, mapped, sums);
        if (plan.kind == ProjectionKind::kRademacher) {
            add_run_rademacher(plan, {row, col, width}, mapped, sketch);
            return;
        }
        for (int repeat = 0; repeat < plan.nonzeros; ++repeat) {
            const Chunk chunk(plan, masks[repeat * repeat_stride], sketch);
            add_mapped(chunk, signs[repeat * repeat_stride], 0, width, mapped, chunk.line(line));
        }
    }
}

/// Asks for a run's worth of lines, `bytes` further on than `from`, to come into the second cache.
inline void prefetch_run(const void* from, int64_t bytes, int64_t size) {
    if (from == nullptr) return;
    // An integer, since the run may lie beyond the array: asking for it is harmless, pointing there is not.
    const uintptr_t at = reinterpret_cast<uintptr_t>(from) + static_cast<uintptr_t>(bytes);
    for (int64_t k = 0; k < kBlockCols * size; k += 64) {
        __builtin_prefetch(reinterpret_cast<const void*>(at + static_cast<uintptr_t>(k)), 0, 2);
    }
}

template <GammaKind kKind, bool kOnce, class T, class M>
void run_rows(const RowsSlice& slice) {
    // Copies cannot be what the sketch points to and stay in registers.
    const SketchPlan plan = slice.plan;
    const GammaTerms terms = slice.terms;
    const int64_t blocks = (slice.width + kBlockCols - 1) / kBlockCols, runs = slice.height * blocks;
    const int64_t whole_blocks = slice.width / kBlockCols;
    const int tail = static_cast<int>(slice.width % kBlockCols);
    const uint32_t (*signs)[4] = slice.signs;
    const uint32_t* masks = slice.masks;
    float* const sketch = slice.sketch;
    SquareNorms norms;
    SquareSums sums;
    bool all_held = true;
    const auto flush = [&] {
        const SquareNorms some = sums.norms<kKind>();
        all_held = all_held && held(some);
        norms += some;
        sums = SquareSums{};
    };
    int64_t in_float = 0;
    for (int64_t k = 0; k < slice.height; ++k) {
        const int64_t row = slice.row_ids != nullptr ? slice.row_ids[k] : slice.row_begin + k;
        const T* grads = static_cast<const T*>(slice.grads) + k * slice.row_stride;
        Moments<M> moments = moments_at<M>(slice.first, slice.second, row * slice.cols + slice.col_begin);
        int64_t col = slice.col_begin;
        int64_t ahead = k * slice.row_stride, moments_ahead = k * slice.cols;
        for (int64_t block = 0; block < blocks; ++block) {
            prefetch_run(slice.next_grads, ahead * int64_t{sizeof(T)}, sizeof(T));
            ahead += kBlockCols;
            if constexpr (reads_second_moment(kKind)) {
                if (reads_first_moment(kKind)) {
                    prefetch_run(slice.next_first, moments_ahead * int64_t{sizeof(M)}, sizeof(M));
                }
                prefetch_run(slice.next_second, moments_ahead * int64_t{sizeof(M)}, sizeof(M));
                moments_ahead += kBlockCols;
            }
            if (block < whole_blocks) {
                add_run<kKind, true, kOnce>(plan, terms, row, col, kBlockCols, grads, moments, signs, masks, runs,
                                            sketch, sums);
            } else {
                add_run<kKind, false, kOnce>(plan, terms, row, col, tail, grads, moments, signs, masks, runs, sketch,
                                             sums);
            }
            if (++in_float == kRunsInFloat) {
                flush();
                in_float = 0;
            }
            grads += kBlockCols;
            moments = moments.template after<kKind>(kBlockCols);
            col += kBlockCols;
            ++signs;
            ++masks;
        }
    }
    if (in_float > 0) flush();
    if (!all_held) {
        norms = SquareNorms{};
        for (int64_t k = 0; k < slice.height; ++k) {
            const int64_t row = slice.row_ids != nullptr ? slice.row_ids[k] : slice.row_begin + k;
            const T* const grads = static_cast<const T*>(slice.grads) + k * slice.row_stride;
            norms += wide_norms<kKind>(Entries<T>{grads, 0}, 1, slice.width,
                                       moments_at<M>(slice.first, slice.second, row * slice.cols + slice.col_begin),
                                       slice.cols, terms);
        }
    }
    norms.add_to(slice.norms);
}

template <GammaKind kKind, class T, class M>
void run_rows(const RowsSlice& slice) {
    if (slice.plan.kind == ProjectionKind::kXor && slice.plan.nonzeros == 1) {
        run_rows<kKind, true, T, M>(slice);
    } else {
        run_rows<kKind, false, T, M>(slice);
    }
}

template <GammaKind kKind, class T>
void run_rows(const RowsSlice& slice) {
    if (reads_second_moment(kKind) && slice.second.dtype == Dtype::kBfloat16) {
        run_rows<kKind, T, bf16>(slice);
    } else {
        run_rows<kKind, T, float>(slice);
    }
}

void run_rows(const RowsSlice& slice) {
    with_gamma(slice.terms.kind, [&]<GammaKind kKind>() {
        if (slice.dtype == Dtype::kFloat32) {
            run_rows<kKind, float>(slice);
        } else {
            run_rows<kKind, bf16>(slice);
        }
    });
}

}  // namespace
}  // namespace gradsift
