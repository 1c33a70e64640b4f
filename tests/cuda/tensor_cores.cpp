// One warp on the emulator, for test_tensor_cores.py: each lane is handed its registers and hands back its sums.
#include <cstdint>
#include <cstring>

#include "cuda/emulator/block.h"
#include "cuda/emulator/tensor_cores.h"

using namespace gradsift;

namespace {

/// a (32, 4), b (32, 2) and sums (32, 4) by lane and register.
template <class Sum>
void one_warp(const uint32_t* a, const uint32_t* b, Sum* sums,
              void (*multiply)(Sum (&)[4], const uint32_t (&)[4], const uint32_t (&)[2], emulator::Site)) {
    emulator::launch({1, 1, 1}, {32, 1, 1}, 0, {}, [&] {
        const int lane = emulator::current_thread().lane;
        uint32_t own_a[4], own_b[2];
        Sum d[4];
        std::memcpy(own_a, a + 4 * lane, sizeof own_a);
        std::memcpy(own_b, b + 2 * lane, sizeof own_b);
        std::memcpy(d, sums + 4 * lane, sizeof d);
        multiply(d, own_a, own_b, emulator::Site::current());
        std::memcpy(sums + 4 * lane, d, sizeof d);
    });
}

}  // namespace

#define MULTIPLIES(name, Sum)                                                                                          \
    extern "C" __attribute__((visibility("default"))) void test_##name(const uint32_t* a, const uint32_t* b, Sum* d) { \
        one_warp<Sum>(a, b, d, cuda::name);                                                                            \
    }
MULTIPLIES(mma_bf16_16816, float)
MULTIPLIES(mma_f16_16816, float)
MULTIPLIES(mma_tf32_1688, float)
MULTIPLIES(mma_s8_16832, int32_t)
