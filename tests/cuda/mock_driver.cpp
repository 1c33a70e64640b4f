// A libcuda.so.1 for tests without a card: it checks the order of calls, the image and the opt-in to shared memory, and
// runs kernels on the emulator with the very grid, block and arguments it was handed. All of the process's memory
// counts as its device's. Read at every call, from the environment:
//
//   GRADSIFT_MOCK_FAULT   no-device, old, no-kernel, no-memory, no-context-memory, host-pointer, other-device, launch,
//                         asynchronous: what goes wrong
//   GRADSIFT_EMULATOR_ORDER    forward, reverse or random      GRADSIFT_EMULATOR_COPIES   early, late or coin
//   GRADSIFT_EMULATOR_SEED     of both                         GRADSIFT_MOCK_LOG          a file: one line a launch
//   GRADSIFT_MOCK_SHARED       bytes of shared memory that a block may ask for; 227 KiB without it
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "cuda/emulator/block.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace gradsift::emulator;

enum Result {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kNotInitialized = 3,
    kNoDevice = 100,
    kInvalidDevice = 101,
    kInvalidImage = 200,
    kInvalidContext = 201,
    kNoBinary = 209,
    kInvalidHandle = 400,
    kNotFound = 500,
    kLaunchResources = 701,
    kLaunchFailed = 719,
};

constexpr uint32_t kFatbinMagic = 0xBA55ED50u;
constexpr size_t kSharedWithoutAsking = 48 << 10;

struct Context {
} g_context;
struct Module {
} g_module;
struct Function {
    const Kernel* kernel;
    size_t shared_bytes = kSharedWithoutAsking;
};

std::mutex g_mutex;
bool g_initialized = false;
bool g_retained = false;
thread_local int t_pushed = 0;
Result g_pending = kSuccess;  // an error that the next call is told of, as with a kernel that failed

bool fault(const char* name) {
    const char* const set = std::getenv("GRADSIFT_MOCK_FAULT");
    return set != nullptr && std::strcmp(set, name) == 0;
}

std::string variable(const char* name, const char* otherwise) {
    const char* const set = std::getenv(name);
    return set != nullptr ? set : otherwise;
}

Settings settings() {
    const std::string order = variable("GRADSIFT_EMULATOR_ORDER", "forward");
    const std::string copies = variable("GRADSIFT_EMULATOR_COPIES", "late");
    Settings chosen;
    chosen.order = order == "reverse" ? Order::kReverse : order == "random" ? Order::kRandom : Order::kForward;
    chosen.copies = copies == "early" ? Copies::kEarly : copies == "coin" ? Copies::kCoin : Copies::kLate;
    chosen.seed = static_cast<unsigned>(std::stoul(variable("GRADSIFT_EMULATOR_SEED", "0")));
    return chosen;
}

int shared_optin() { return std::stoi(variable("GRADSIFT_MOCK_SHARED", "232448")); }

void note(const std::string& line) {
    const std::string path = variable("GRADSIFT_MOCK_LOG", "");
    if (path.empty()) return;
    FILE* const file = std::fopen(path.c_str(), "a");
    if (file == nullptr) return;
    std::fprintf(file, "%s\n", line.c_str());
    std::fclose(file);
}

}  // namespace

EXPORT int cuInit(unsigned flags) {
    if (flags != 0) return kInvalidValue;
    if (fault("no-device")) return kNoDevice;
    g_initialized = true;
    return kSuccess;
}

EXPORT int cuDriverGetVersion(int* version) {
    *version = fault("old") ? 12080 : 13000;
    return kSuccess;
}

EXPORT int cuGetErrorName(int result, const char** name) {
    *name = result == kOutOfMemory       ? "CUDA_ERROR_OUT_OF_MEMORY"
            : result == kNoBinary        ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
            : result == kNoDevice        ? "CUDA_ERROR_NO_DEVICE"
            : result == kNotFound        ? "CUDA_ERROR_NOT_FOUND"
            : result == kLaunchFailed    ? "CUDA_ERROR_LAUNCH_FAILED"
            : result == kLaunchResources ? "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"
                                         : nullptr;
    return *name != nullptr ? kSuccess : kInvalidValue;
}

EXPORT int cuDeviceGetCount(int* count) {
    *count = 2;
    return g_initialized ? kSuccess : kNotInitialized;
}

EXPORT int cuDeviceGet(int* device, int ordinal) {
    if (!g_initialized) return kNotInitialized;
    *device = ordinal;
    return ordinal >= 0 && ordinal < 2 ? kSuccess : kInvalidDevice;
}

EXPORT int cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, static_cast<size_t>(length), "emulated card");
    return kSuccess;
}

EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 75 ? (fault("no-kernel") ? 7 : 9) : attribute == 76 ? 0 : attribute == 16 ? 4 : 0;
    if (attribute == 97) *value = shared_optin();
    return kSuccess;
}

EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = size_t{1} << 30;
    return kSuccess;
}

EXPORT int cuDevicePrimaryCtxRetain(Context** context, int device) {
    if (!g_initialized) return kNotInitialized;
    if (fault("no-context-memory")) return kOutOfMemory;
    if (device < 0 || device > 1) return kInvalidDevice;
    g_retained = true;
    *context = &g_context;
    return kSuccess;
}

EXPORT int cuCtxPushCurrent_v2(Context* context) {
    if (!g_retained || context != &g_context) return kInvalidContext;
    ++t_pushed;
    return kSuccess;
}

EXPORT int cuCtxPopCurrent_v2(Context** context) {
    if (t_pushed == 0) return kInvalidContext;
    --t_pushed;
    *context = &g_context;
    return kSuccess;
}

EXPORT int cuModuleLoadData(Module** module, const void* image) {
    if (t_pushed == 0) return kInvalidContext;
    uint32_t magic;
    std::memcpy(&magic, image, sizeof magic);
    if (magic != kFatbinMagic) return kInvalidImage;
    if (fault("no-kernel")) return kNoBinary;
    if (fault("no-memory")) return kOutOfMemory;
    *module = &g_module;
    return kSuccess;
}

EXPORT int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    if (t_pushed == 0) return kInvalidContext;
    if (module != &g_module) return kInvalidHandle;
    const Kernel* const kernel = find_kernel(name);
    if (kernel == nullptr) return kNotFound;
    *function = new Function{kernel};  // for the process, as a module's functions are
    return kSuccess;
}

EXPORT int cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (t_pushed == 0) return kInvalidContext;
    if (attribute != 8 || value < 0 || value > shared_optin()) return kInvalidValue;
    function->shared_bytes = static_cast<size_t>(value);
    return kSuccess;
}

EXPORT int cuPointerGetAttribute(void* value, int attribute, uintptr_t pointer) {
    if (t_pushed == 0) return kInvalidContext;
    if (pointer == 0 || fault("host-pointer")) return kInvalidValue;
    const uint32_t type = 2;  // CU_MEMORYTYPE_DEVICE
    const int ordinal = fault("other-device") ? 1 : 0;
    std::memcpy(value, attribute == 2 ? static_cast<const void*>(&type) : &ordinal, 4);
    return attribute == 2 || attribute == 9 ? kSuccess : kInvalidValue;
}

EXPORT int cuLaunchKernel(Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y,
                          unsigned z, unsigned shared_bytes, void* stream, void** arguments, void** extra) {
    if (t_pushed == 0) return kInvalidContext;
    if (extra != nullptr || grid_x == 0 || grid_y == 0 || grid_z == 0 || grid_y > 65535 || grid_z > 65535) {
        return kInvalidValue;
    }
    if (x * y * z > function->kernel->threads || shared_bytes > function->shared_bytes) return kLaunchResources;
    if (fault("launch")) return kLaunchFailed;
    const std::lock_guard<std::mutex> lock(g_mutex);
    if (g_pending != kSuccess) return g_pending;
    note(std::string(function->kernel->name) + " " + std::to_string(grid_x) + " " + std::to_string(grid_y) + " " +
         std::to_string(grid_z) + " " + std::to_string(x) + " " + std::to_string(shared_bytes) + " stream " +
         std::to_string(reinterpret_cast<uintptr_t>(stream)));
    try {
        launch({grid_x, grid_y, grid_z}, {x, y, z}, shared_bytes, settings(),
               [&] { function->kernel->run(arguments[0]); });
    } catch (const Error& error) {
        std::fprintf(stderr, "emulator: %s: %s\n", function->kernel->name, error.what());
        return kLaunchFailed;
    }
    if (fault("asynchronous")) g_pending = kLaunchFailed;
    return kSuccess;
}

EXPORT int cuStreamSynchronize(void*) {
    const Result pending = g_pending;
    return t_pushed == 0 ? kInvalidContext : pending;
}
