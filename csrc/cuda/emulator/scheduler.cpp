#include "cuda/emulator/scheduler.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <numeric>
#include <thread>

#if !defined(GRADSIFT_EMULATOR_THREADS)
#include <setjmp.h>
#include <ucontext.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#endif

namespace gradsift::emulator {

namespace {
#if defined(GRADSIFT_EMULATOR_THREADS)
thread_local Thread* t_current = nullptr;
#else
Thread* t_current = nullptr;
#endif
constexpr const char* kStuck = "deadlock: a barrier that not every running thread comes to";
}  // namespace

Thread& current_thread() { return *t_current; }

#if defined(GRADSIFT_EMULATOR_THREADS)

void wait(Barrier& barrier, int generation, Locked& lock) {
    Block& block = *current_thread().block;
    for (int turns = 0; barrier.generation == generation; ++turns) {
        if (block.failed) throw Error("stopped");
        if (turns > 4000) fail(kStuck);
        barrier.changed.wait_for(lock.lock, std::chrono::milliseconds(5));
    }
}

void wake(Barrier& barrier) { barrier.changed.notify_all(); }

void note_progress(Block&) {}

void run_block(Block& block, const std::function<void()>& body, std::mt19937&) {
    std::vector<std::thread> threads;
    for (Thread& thread : block.threads) {
        threads.emplace_back([&] {
            t_current = &thread;
            run_thread(thread, body);
        });
    }
    for (std::thread& thread : threads) thread.join();
}

#else

namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kGuardBytes = 4096;

/// A thread's code on a stack of its own. Changing places by setjmp costs no system call, which swapcontext makes two
/// of; AddressSanitizer has to be told of every change and understands swapcontext alone.
struct Fiber {
    char* stack = nullptr;
    ucontext_t context;
    jmp_buf place;
    bool begun = false;
    void* fake_stack = nullptr;
};

struct Scheduler {
    Block* block;
    const std::function<void()>* body;
    std::vector<Fiber> fibers;
    ucontext_t context;
    jmp_buf place;
    const void* stack = nullptr;  // of whoever launched
    size_t stack_bytes = 0;
};

Scheduler* g_scheduler = nullptr;

void leave_fiber() {
    Scheduler& scheduler = *g_scheduler;
    Thread& thread = *t_current;
    Fiber& fiber = scheduler.fibers[static_cast<size_t>(thread.number)];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(thread.done ? nullptr : &fiber.fake_stack, scheduler.stack, scheduler.stack_bytes);
    swapcontext(&fiber.context, &scheduler.context);
    __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#else
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler.place, 1);
#endif
}

void fiber_entry() {
    Scheduler& scheduler = *g_scheduler;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_bytes);
#endif
    run_thread(*t_current, *scheduler.body);
    for (;;) leave_fiber();
}

void enter_fiber(Thread& thread) {
    Scheduler& scheduler = *g_scheduler;
    Fiber& fiber = scheduler.fibers[static_cast<size_t>(thread.number)];
    t_current = &thread;
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack;
    __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, kStackBytes);
    swapcontext(&scheduler.context, &fiber.context);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
    if (_setjmp(scheduler.place) != 0) return;
    if (!fiber.begun) {
        fiber.begun = true;
        setcontext(&fiber.context);
    }
    _longjmp(fiber.place, 1);
#endif
}

/// Stacks are kept for the process: mapping a thousand of them for every block would take longer than most blocks.
char* stack_of(size_t thread) {
    static std::vector<char*> stacks;
    while (stacks.size() <= thread) {
        void* const memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) throw std::bad_alloc();
        stacks.push_back(static_cast<char*>(memory) + kGuardBytes);
    }
    return stacks[thread];
}

void prepare(Fiber& fiber, char* stack) {
    fiber.stack = stack;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_entry, 0);
}

/// Lets every lane of a warp run to its next barrier, until none gets any further.
void run_warp(Block& block, size_t warp) {
    const bool reverse = block.settings.order == Order::kReverse;
    unsigned long before;
    do {
        before = block.progress;
        for (size_t lane = 0; lane < 32; ++lane) {
            const size_t number = warp * 32 + (reverse ? 31 - lane : lane);
            if (number < block.threads.size() && !block.threads[number].done) enter_fiber(block.threads[number]);
        }
    } while (block.progress != before);
}

}  // namespace

void wait(Barrier& barrier, int generation, Locked&) {
    while (barrier.generation == generation) {
        if (current_thread().block->failed) throw Error("stopped");
        leave_fiber();
    }
}

void wake(Barrier&) {}

void note_progress(Block& block) { ++block.progress; }

void run_block(Block& block, const std::function<void()>& body, std::mt19937& random) {
    Scheduler scheduler;
    scheduler.block = &block;
    scheduler.body = &body;
    scheduler.fibers.resize(block.threads.size());
    g_scheduler = &scheduler;
    for (size_t n = 0; n < scheduler.fibers.size(); ++n) prepare(scheduler.fibers[n], stack_of(n));
    std::vector<size_t> warps(block.warps.size());
    std::iota(warps.begin(), warps.end(), size_t{0});
    if (block.settings.order == Order::kReverse) std::reverse(warps.begin(), warps.end());
    while (block.running > 0) {
        if (block.settings.order == Order::kRandom) std::shuffle(warps.begin(), warps.end(), random);
        const unsigned long before = block.progress;
        for (const size_t warp : warps) run_warp(block, warp);
        if (block.progress == before) block.fail(kStuck);
    }
    g_scheduler = nullptr;
    t_current = nullptr;
}

#endif

}  // namespace gradsift::emulator
