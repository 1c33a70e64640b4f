// Shared by score_rows.cu and score_finish.cu.
#pragma once
#include "cuda/device.h"

namespace gradsift {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

/// The highest score and its column, the first of equals.
struct Best {
    float score;
    int column;
    __device__ __forceinline__ void see(float other, int other_column) {
        if (other > score || (other == score && other_column < column)) {
            score = other;
            column = other_column;
        }
    }
};

}  // namespace
}  // namespace gradsift
