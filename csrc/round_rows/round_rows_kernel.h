// Included by one file per instruction set, whose compiler flags decide how the loop is vectorised.
#pragma once
#include "round_rows/round_rows.h"

namespace gradsift {
namespace {

inline void round_each_row(const RoundRows& call) {
    for (int64_t row = 0; row < call.n; ++row) {
        const float* const in = call.rows + row * call.stride;
        uint16_t* const out = call.out + row * call.cols;
        int32_t largest = 0;
        for (int64_t col = 0; col < call.cols; ++col) {
            uint32_t bits;
            __builtin_memcpy(&bits, in + col, 4);
            const int32_t magnitude = static_cast<int32_t>(bits & 0x7FFFFFFFu);
            largest = magnitude > largest ? magnitude : largest;
            const uint32_t upper = bits >> 16;
            const uint32_t rounded = (bits + 0x7FFFu + (upper & 1u)) >> 16;
            // Adding could carry a NaN into another number, and cutting could leave an infinity.
            out[col] = static_cast<uint16_t>(magnitude > 0x7F800000 ? upper | 0x40u : rounded);
        }
        call.largest[row] = static_cast<uint32_t>(largest);
    }
}

}  // namespace
}  // namespace gradsift
