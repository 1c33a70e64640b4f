// CUDA's atomic operations, relaxed as they are there.
#pragma once
#include <cstdint>

#include "cuda/emulator/block.h"

namespace gradsift::emulator {

template <class T, class F>
T replace(T* at, F change) {
    T old, changed;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do {
        changed = change(old);
    } while (!__atomic_compare_exchange(at, &old, &changed, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

}  // namespace gradsift::emulator

template <class T>
T atomicAdd(T* at, std::type_identity_t<T> by) {
    return gradsift::emulator::replace(at, [&](T old) { return static_cast<T>(old + by); });
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> value) {
    return gradsift::emulator::replace(at, [&](T old) { return old < value ? value : old; });
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> value) {
    return gradsift::emulator::replace(at, [&](T old) { return value < old ? value : old; });
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> bits) {
    return gradsift::emulator::replace(at, [&](T old) { return static_cast<T>(old | bits); });
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> value) {
    return gradsift::emulator::replace(at, [&](T) { return value; });
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    return gradsift::emulator::replace(at, [&](T old) { return old == expected ? value : old; });
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
