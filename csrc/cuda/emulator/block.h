// The emulator of one thread block: blocks run one after the other, the threads of a block as fibers that change places
// at barriers, or with GRADSIFT_EMULATOR_THREADS as real threads, for ThreadSanitizer.
//
// What a card would not tell: shared memory begins as NaN and the dynamic part ends at a page that cannot be touched;
// warps run as far ahead as barriers let them, in the order of numbers, its reverse or at random; asynchronous copies
// land when they are asked for, when they are waited for, or either. Wrong use throws Error.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/emulator/vectors.h"
#if defined(GRADSIFT_EMULATOR_THREADS)
#include <atomic>
#include <condition_variable>
#include <mutex>
#endif

namespace gradsift::emulator {

using Site = std::source_location;

/// What a kernel did that it must not do.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class Order { kForward, kReverse, kRandom };
enum class Copies { kEarly, kLate, kCoin };

struct Settings {
    Order order = Order::kForward;
    Copies copies = Copies::kLate;
    unsigned seed = 0;
};

#if defined(GRADSIFT_EMULATOR_THREADS)
using Count = std::atomic<int>;
using Lanes = std::atomic<uint32_t>;
#else
using Count = int;
using Lanes = uint32_t;
#endif

struct Barrier {
    int arrived = 0, generation = 0;
    Site site;  // of those who wait
#if defined(GRADSIFT_EMULATOR_THREADS)
    // One lock a barrier: a shared one would order accesses that a card does not order, and so hide races.
    std::mutex mutex;
    std::condition_variable changed;
#endif
};

/// Lanes hand values to each other through `slots`.
struct Warp {
    Barrier barrier;
    Lanes running{0};
    uint32_t all = 0;
    uint32_t slots[32][8];
};

/// An asynchronous copy that has not landed.
struct Copy {
    void* to;
    const void* from;
    int bytes;
};

struct Block;
struct Thread {
    uint3 index{};
    int number = 0, lane = 0;
    Block* block = nullptr;
    Warp* warp = nullptr;
    bool done = false;
    int shared_arrays = 0;  // declared so far
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> committed;
};

struct SharedArray {
    std::unique_ptr<char[]> bytes;
    size_t size;
};

struct Block {
    dim3 grid_shape, threads_shape;
    uint3 index{};
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Barrier barrier, guard;
    Count running{0};
    Count failed{0};
    std::string error;
    char* dynamic_shared = nullptr;
    Settings settings;
    std::vector<SharedArray> shared_arrays;
    unsigned long progress = 0;  // arrivals and returns, to tell waiting from being stuck

    Block(dim3 grid, dim3 shape, const Settings& how);
    /// The first error stops the block.
    void fail(const std::string& what);
};

/// The CUDA thread whose code is running.
Thread& current_thread();

/// Throws Error with the block and the thread.
[[noreturn]] void fail(const std::string& what);

void require_aligned(const void* at, size_t bytes, const char* what);

/// The shared array whose declaration this thread has come to: the n-th of the block, since every thread must come to
/// the same ones in the same order.
void* shared_array(size_t bytes);

/// Waits for `expected` threads at one place in the source.
void arrive(Barrier& barrier, int expected, const Site& site, const char* what);
void sync_block(const Site& site);
void sync_warp(uint32_t mask, const Site& site);

/// Runs every block of a launch, or throws the Error of the first that fails.
void launch(dim3 grid, dim3 threads, size_t shared_bytes, const Settings& settings, const std::function<void()>& body);

struct Kernel {
    const char* name;
    size_t args_bytes;
    unsigned threads;  // of its launch bounds
    void (*run)(const void* args);
};

struct Registration {
    explicit Registration(const Kernel& kernel);
};

/// By name; null if there is none.
const Kernel* find_kernel(const std::string& name);

}  // namespace gradsift::emulator

inline void __syncthreads(gradsift::emulator::Site site = gradsift::emulator::Site::current()) {
    gradsift::emulator::sync_block(site);
}
