// Between emulator.cpp and scheduler.cpp.
#pragma once
#include <functional>
#include <random>

#include "cuda/emulator/block.h"

namespace gradsift::emulator {

/// Holds a barrier while it is read and changed; fibers have nothing to hold.
class Locked {
  public:
#if defined(GRADSIFT_EMULATOR_THREADS)
    explicit Locked(Barrier& barrier) : lock(barrier.mutex) {}
    std::unique_lock<std::mutex> lock;
#else
    explicit Locked(Barrier&) {}
#endif
};

/// Waits for the barrier to go on from `generation`.
void wait(Barrier& barrier, int generation, Locked& lock);
void wake(Barrier& barrier);
void note_progress(Block& block);

/// One thread's code from beginning to end; its errors go to the block.
void run_thread(Thread& thread, const std::function<void()>& body);

/// All threads of a block.
void run_block(Block& block, const std::function<void()>& body, std::mt19937& random);

}  // namespace gradsift::emulator
