// All that a .cu file includes of CUDA: one source for two compilers. nvcc makes device code of it; a host compiler
// makes it run on the CPU, in an emulator that checks what a card would not tell (csrc/cuda/emulator).
//
//   GRADSIFT_KERNEL(name, Args, threads) { … }             a kernel of one argument, `args`, a plain struct by value
//   GRADSIFT_KERNEL_OCC(name, Args, threads, blocks) { … } the same, so many blocks of which shall fit on one SM
//   GRADSIFT_SHARED(T, name, count);                       a shared array; never plain __shared__
//   GRADSIFT_DYNAMIC_SHARED(T, name);                      the launch's shared memory, aligned to 16 bytes
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#include "cuda/device_nvcc.h"
#else
#include "cuda/emulator/device_host.h"
#endif
