// What the fibers and the threads of the emulator have in common; cuda/emulator/scheduler.cpp runs a block's threads.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>

#include "cuda/emulator/asynchronous.h"
#include "cuda/emulator/block.h"
#include "cuda/emulator/scheduler.h"
#include "cuda/emulator/warp.h"

namespace gradsift::emulator {
namespace {

constexpr int kPoison = 0xFF;  // NaN in every float type
constexpr size_t kMaxShared = 227 << 10;
constexpr size_t kMaxStaticShared = 48 << 10;

/// Dynamic shared memory, which ends where a page begins that cannot be touched.
class GuardedMemory {
  public:
    explicit GuardedMemory(size_t bytes) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
        used_ = (bytes + page_ - 1) / page_ * page_;
        base_ = static_cast<char*>(
            mmap(nullptr, used_ + page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (base_ == MAP_FAILED) throw std::bad_alloc();
        if (mprotect(base_ + used_, page_, PROT_NONE) != 0) throw std::bad_alloc();
        start_ = base_ + used_ - (bytes + 15) / 16 * 16;
    }
    GuardedMemory(const GuardedMemory&) = delete;
    GuardedMemory& operator=(const GuardedMemory&) = delete;
    ~GuardedMemory() { munmap(base_, used_ + page_); }

    void poison() { std::memset(base_, kPoison, used_); }
    char* start() const { return start_; }

  private:
    size_t page_, used_;
    char *base_, *start_;
};

std::vector<uint3> block_order(dim3 grid, Order order, std::mt19937& random) {
    std::vector<uint3> blocks;
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
        }
    }
    if (order == Order::kReverse) std::reverse(blocks.begin(), blocks.end());
    if (order == Order::kRandom) std::shuffle(blocks.begin(), blocks.end(), random);
    return blocks;
}

void land(const Copy& copy) {
    char bytes[16] = {};
    std::memcpy(bytes, copy.from, static_cast<size_t>(copy.bytes));
    std::memcpy(copy.to, bytes, sizeof bytes);
}

std::string place(const Site& site) { return std::string(site.file_name()) + ":" + std::to_string(site.line()); }

bool same(const Site& a, const Site& b) {
    return a.line() == b.line() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

}  // namespace

Block::Block(dim3 grid, dim3 shape, const Settings& how)
    : grid_shape(grid),
      threads_shape(shape),
      threads(shape.x * shape.y * shape.z),
      warps((threads.size() + 31) / 32),
      settings(how) {
    running = static_cast<int>(threads.size());
    for (size_t n = 0; n < threads.size(); ++n) {
        Thread& thread = threads[n];
        const auto number = static_cast<unsigned>(n);
        thread.index = {number % shape.x, number / shape.x % shape.y, number / shape.x / shape.y};
        thread.number = static_cast<int>(n);
        thread.lane = static_cast<int>(n % 32);
        thread.block = this;
        thread.warp = &warps[n / 32];
        thread.warp->all |= 1u << thread.lane;
    }
    for (Warp& warp : warps) warp.running = warp.all;
}

void Block::fail(const std::string& what) {
    const Locked lock(guard);
    if (failed) return;
    error = what;
    failed = 1;
}

void fail(const std::string& what) {
    const Thread& thread = current_thread();
    const uint3 at = thread.block->index;
    throw Error(what + " [block " + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) +
                ", thread " + std::to_string(thread.number) + "]");
}

void require_aligned(const void* at, size_t bytes, const char* what) {
    if (reinterpret_cast<uintptr_t>(at) % bytes != 0) {
        fail(std::string(what) + ": an address that is no multiple of " + std::to_string(bytes));
    }
}

void* shared_array(size_t bytes) {
    Thread& self = current_thread();
    Block& block = *self.block;
    const Locked lock(block.guard);
    const auto which = static_cast<size_t>(self.shared_arrays++);
    auto& arrays = block.shared_arrays;
    if (which == arrays.size()) {
        arrays.push_back({std::unique_ptr<char[]>(new char[bytes]), bytes});
        std::memset(arrays.back().bytes.get(), kPoison, bytes);
        size_t sum = 0;
        for (const SharedArray& array : arrays) sum += array.size;
        if (sum > kMaxStaticShared) fail("shared arrays of more than 48 KiB");
    }
    if (arrays[which].size != bytes) fail("threads of a block declare different shared arrays");
    return arrays[which].bytes.get();
}

void arrive(Barrier& barrier, int expected, const Site& site, const char* what) {
    Block& block = *current_thread().block;
    Locked lock(barrier);
    note_progress(block);
    if (barrier.arrived > 0 && !same(barrier.site, site)) {
        fail(std::string(what) + " at " + place(site) + " while others wait at " + place(barrier.site));
    }
    barrier.site = site;
    if (++barrier.arrived >= expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        wake(barrier);
        return;
    }
    wait(barrier, barrier.generation, lock);
}

void sync_block(const Site& site) {
    Block& block = *current_thread().block;
    const int running = block.running;
    // A card allows it as long as nobody diverges; here it is refused, since it is a mistake as a rule.
    if (running != static_cast<int>(block.threads.size())) {
        fail("__syncthreads at " + place(site) + " after a thread of the block has returned");
    }
    arrive(block.barrier, running, site, "__syncthreads");
}

void sync_warp(uint32_t mask, const Site& site) {
    const Thread& self = current_thread();
    const uint32_t running = self.warp->running;
    if ((mask >> self.lane & 1) == 0)
        fail("a warp operation at " + place(site) + " by a lane that its mask leaves out");
    if ((mask & self.warp->all & ~running) != 0)
        fail("a warp operation at " + place(site) + " waits for lanes that have returned");
    arrive(self.warp->barrier, std::popcount(mask & running), site, "a warp operation");
}

uint32_t ballot(uint32_t mask, bool bit, const Site& site) {
    Thread& self = current_thread();
    self.warp->slots[self.lane][0] = bit ? 1 : 0;
    sync_warp(mask, site);
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane) {
        if (mask >> lane & 1) bits |= self.warp->slots[lane][0] << lane;
    }
    sync_warp(mask, site);
    return bits;
}

void wait_for_copies(int left) {
    auto& groups = current_thread().committed;
    while (static_cast<int>(groups.size()) > left) {
        for (const Copy& copy : groups.front()) land(copy);
        groups.erase(groups.begin());
    }
}

void run_thread(Thread& thread, const std::function<void()>& body) {
    Block& block = *thread.block;
    try {
        body();
        if (!thread.open.empty() || !thread.committed.empty()) fail("a thread returns while cp.async is in flight");
    } catch (const Error& error) {
        block.fail(error.what());
    }
    note_progress(block);
    thread.done = true;
    thread.warp->running &= ~(1u << thread.lane);
    --block.running;
}

void launch(dim3 grid, dim3 shape, size_t shared_bytes, const Settings& settings, const std::function<void()>& body) {
    const unsigned count = shape.x * shape.y * shape.z;
    if (count == 0 || count > 1024) throw Error("a block of " + std::to_string(count) + " threads");
    if (shared_bytes > kMaxShared) throw Error("more than 227 KiB of shared memory");
    std::mt19937 random(settings.seed);
    GuardedMemory shared(shared_bytes);
    for (const uint3 index : block_order(grid, settings.order, random)) {
        Block block(grid, shape, settings);
        block.index = index;
        block.dynamic_shared = shared.start();
        shared.poison();
        run_block(block, body, random);
        if (block.failed) throw Error(block.error);
    }
}

Registration::Registration(const Kernel& kernel) {
    if (!kernels().emplace(kernel.name, kernel).second) std::abort();  // two kernels of one name
}

const Kernel* find_kernel(const std::string& name) {
    const auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

}  // namespace gradsift::emulator

namespace gradsift::cuda {

void cp_async16(void* shared, const void* global, int bytes) {
    emulator::require_aligned(shared, 16, "cp.async to shared memory");
    emulator::require_aligned(global, 16, "cp.async from global memory");
    if (bytes < 0 || bytes > 16) emulator::fail("cp.async of " + std::to_string(bytes) + " bytes");
    emulator::Thread& self = emulator::current_thread();
    const emulator::Copy copy{shared, global, bytes};
    const emulator::Copies when = self.block->settings.copies;
    const bool coin = (reinterpret_cast<uintptr_t>(shared) / 16 * 2654435761u >> 16 & 1) != 0;
    if (when == emulator::Copies::kEarly || (when == emulator::Copies::kCoin && coin)) {
        emulator::land(copy);
    } else {
        self.open.push_back(copy);
    }
}

void cp_async_commit() {
    emulator::Thread& self = emulator::current_thread();
    self.committed.push_back(std::move(self.open));
    self.open.clear();
}

}  // namespace gradsift::cuda
