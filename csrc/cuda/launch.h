// Kernels on the caller's stream. Nothing is allocated on the card and nothing waits for it; GRADSIFT_CUDA_SYNC=1 waits
// after every launch, so that a kernel's error is raised by the call that launched it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace gradsift::cuda {

/// Where a call runs: a device by its number, and a stream of its primary context, which is torch's; 0 is the default.
struct Place {
    int device = 0;
    uintptr_t stream = 0;
};

struct Grid {
    unsigned x = 1, y = 1, z = 1;
    unsigned threads = 0;     // of a block
    size_t shared_bytes = 0;  // dynamic shared memory of a block
};

struct DeviceInfo {
    std::string name;
    int major = 0, minor = 0;  // compute capability
    int multiprocessors = 0;
    int64_t memory_bytes = 0;
    int64_t shared_bytes = 0;  // that a block may have at most
};

/// Whether this library holds kernels.
bool built();

/// Why CUDA cannot be used here, or nothing. Never throws.
std::string unavailable_reason();

/// 1000 · major + 10 · minor of the CUDA that the driver runs; 0 without one.
int driver_version();

/// How many devices there are; throws Unavailable.
int device_count();

/// Throws std::invalid_argument for a device that there is not, and Unavailable.
const DeviceInfo& device_info(int device);

/// Throws std::invalid_argument unless `pointer` is memory that kernels on this device can reach.
void check_pointer(const char* argument, const void* pointer, int device);

/// `image` is the stem of the .cu file, `kernel` the name it is declared by. Throws Unavailable, OutOfMemory, Failure.
void launch_bytes(const char* image, const char* kernel, const Place& place, const Grid& grid, const void* args);

template <class Args>
void launch(const char* image, const char* kernel, const Place& place, const Grid& grid, const Args& args) {
    static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= 4096);
    launch_bytes(image, kernel, place, grid, &args);
}

}  // namespace gradsift::cuda
