// CUDA's operations of a warp. Every one is two rendezvous of the lanes in its mask: values handed in, values taken.
#pragma once
#include <cstdint>
#include <cstring>

#include "cuda/emulator/block.h"

namespace gradsift::emulator {

/// `value` of lane `from`, which must be in the mask.
template <class T>
T shuffle(uint32_t mask, T value, int from, const Site& site) {
    static_assert(sizeof(T) <= sizeof(uint32_t[8]) && std::is_trivially_copyable_v<T>);
    Thread& self = current_thread();
    std::memcpy(self.warp->slots[self.lane], &value, sizeof value);
    sync_warp(mask, site);
    if ((mask >> from & 1) == 0) fail("a shuffle reads lane " + std::to_string(from) + ", which is not in its mask");
    T taken;
    std::memcpy(&taken, self.warp->slots[from], sizeof taken);
    sync_warp(mask, site);
    return taken;
}

/// One bit a lane.
uint32_t ballot(uint32_t mask, bool bit, const Site& site);

}  // namespace gradsift::emulator

constexpr int warpSize = 32;

inline void __syncwarp(uint32_t mask = 0xFFFFFFFFu,
                       gradsift::emulator::Site site = gradsift::emulator::Site::current()) {
    gradsift::emulator::sync_warp(mask, site);
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = 32,
              gradsift::emulator::Site site = gradsift::emulator::Site::current()) {
    const int own = gradsift::emulator::current_thread().lane;
    return gradsift::emulator::shuffle(mask, value, (own & ~(width - 1)) | (lane & (width - 1)), site);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32,
                  gradsift::emulator::Site site = gradsift::emulator::Site::current()) {
    const int own = gradsift::emulator::current_thread().lane, from = own ^ bits;
    return gradsift::emulator::shuffle(mask, value, (from & ~(width - 1)) <= own ? from : own, site);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int by, int width = 32,
                 gradsift::emulator::Site site = gradsift::emulator::Site::current()) {
    const int own = gradsift::emulator::current_thread().lane;
    return gradsift::emulator::shuffle(mask, value, (own & (width - 1)) < by ? own : own - by, site);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, int by, int width = 32,
                   gradsift::emulator::Site site = gradsift::emulator::Site::current()) {
    const int own = gradsift::emulator::current_thread().lane;
    return gradsift::emulator::shuffle(mask, value, (own & (width - 1)) + by >= width ? own : own + by, site);
}
inline uint32_t __ballot_sync(uint32_t mask, int bit,
                              gradsift::emulator::Site site = gradsift::emulator::Site::current()) {
    return gradsift::emulator::ballot(mask, bit != 0, site);
}
inline int __any_sync(uint32_t mask, int bit, gradsift::emulator::Site site = gradsift::emulator::Site::current()) {
    return gradsift::emulator::ballot(mask, bit != 0, site) != 0;
}
inline int __all_sync(uint32_t mask, int bit, gradsift::emulator::Site site = gradsift::emulator::Site::current()) {
    return gradsift::emulator::ballot(mask, bit == 0, site) == 0;
}
