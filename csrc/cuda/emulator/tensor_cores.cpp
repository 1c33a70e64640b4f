#include "cuda/emulator/tensor_cores.h"

#include <bit>
#include <cstring>

#include "cuda/emulator/arithmetic.h"

namespace gradsift::cuda {
namespace {

using emulator::Site;

constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

/// d += a · b of an m16n8 product over kDepth, where a register holds kPerRegister elements of the depth.
/// a: register r of a lane holds row lane/4 + 8·(r%2) and, from depth (lane%4)·kPerRegister + (r/2)·(kDepth/2) on,
/// neighbouring elements. b: register r holds column lane/4 and the depth likewise. d: row lane/4 + 8·(i/2), column
/// 2·(lane%4) + i%2.
template <int kDepth, int kPerRegister, class Sum, class Element>
void multiply(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Element& element, const Site& site) {
    emulator::Thread& self = emulator::current_thread();
    emulator::Warp& warp = *self.warp;
    std::memcpy(warp.slots[self.lane], a, sizeof a);
    std::memcpy(warp.slots[self.lane] + 4, b, sizeof b);
    emulator::sync_warp(kAllLanes, site);
    const auto at = [&](int line, int depth, int first_register, int registers_apart) {
        const int half = depth / (kDepth / 2), within = depth % (kDepth / 2);
        const uint32_t word = warp.slots[line * 4 + within / kPerRegister][first_register + registers_apart * half];
        return element(word, within % kPerRegister);
    };
    for (int i = 0; i < 4; ++i) {
        const int row = self.lane / 4 + 8 * (i / 2), col = 2 * (self.lane % 4) + i % 2;
        Sum sum = 0;
        for (int k = 0; k < kDepth; ++k) sum += at(row % 8, k, row / 8, 2) * at(col, k, 4, 1);
        d[i] += sum;
    }
    emulator::sync_warp(kAllLanes, site);
}

}  // namespace

void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
    const auto element = [](uint32_t word, int k) { return bf16_to_float(static_cast<uint16_t>(word >> (16 * k))); };
    multiply<16, 2>(d, a, b, element, site);
}
void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
    const auto element = [](uint32_t word, int k) { return half_to_float(static_cast<uint16_t>(word >> (16 * k))); };
    multiply<16, 2>(d, a, b, element, site);
}
void mma_tf32_1688(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
    // The card reads the upper 19 bits.
    const auto element = [](uint32_t word, int) { return std::bit_cast<float>(word & ~0x1FFFu); };
    multiply<8, 1>(d, a, b, element, site);
}
void mma_s8_16832(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
    const auto element = [](uint32_t word, int k) { return int32_t{static_cast<int8_t>(word >> (8 * k))}; };
    multiply<32, 4>(d, a, b, element, site);
}

}  // namespace gradsift::cuda
