// mma.sync by the lane maps of the PTX manual (tests/cuda/test_tensor_cores.py). Products of 16-bit floats are exact in
// float32 and are summed one after the other there; a tensor core sums in another order, so results are compared to a
// tolerance.
#pragma once
#include <cstdint>

#include "cuda/emulator/block.h"

namespace gradsift::cuda {

void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                    emulator::Site site = emulator::Site::current());
void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                   emulator::Site site = emulator::Site::current());
void mma_tf32_1688(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                   emulator::Site site = emulator::Site::current());
void mma_s8_16832(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  emulator::Site site = emulator::Site::current());

}  // namespace gradsift::cuda
