// device.h for a host compiler: CUDA's own names, in terms of the emulator.
#pragma once
#include "cuda/emulator/arithmetic.h"
#include "cuda/emulator/asynchronous.h"
#include "cuda/emulator/atomics.h"
#include "cuda/emulator/block.h"
#include "cuda/emulator/tensor_cores.h"
#include "cuda/emulator/vectors.h"
#include "cuda/emulator/warp.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

#define threadIdx (::gradsift::emulator::current_thread().index)
#define blockIdx (::gradsift::emulator::current_thread().block->index)
#define blockDim (::gradsift::emulator::current_thread().block->threads_shape)
#define gridDim (::gradsift::emulator::current_thread().block->grid_shape)

#define GRADSIFT_KERNEL_OCC(name, Args, threads, blocks) GRADSIFT_KERNEL(name, Args, threads)
#define GRADSIFT_KERNEL(name, Args, threads)                                                              \
    static void name(const Args& args);                                                                   \
    static const ::gradsift::emulator::Registration gradsift_registered_##name{                           \
        {#name, sizeof(Args), threads, [](const void* args) { name(*static_cast<const Args*>(args)); }}}; \
    static void name([[maybe_unused]] const Args& args)
#define GRADSIFT_SHARED(T, name, count) \
    T(&name)[count] = *static_cast<T(*)[count]>(::gradsift::emulator::shared_array(sizeof(T) * (count)))
#define GRADSIFT_DYNAMIC_SHARED(T, name) \
    T* const name = reinterpret_cast<T*>(::gradsift::emulator::current_thread().block->dynamic_shared)
