#include "cuda/driver_api.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <mutex>

#include "cuda/errors.h"
#include "cuda/images.h"

namespace gradsift::cuda {
namespace {

// Binaries of nvcc 13 need a driver of CUDA 13.0.
constexpr int kOldestVersion = 13000;
constexpr const char* kOldestRelease = "r580";

std::mutex g_mutex;
DriverApi g_api;
Driver g_driver;  // with an api: for good
std::atomic<bool> g_begun{false};
std::atomic<bool> g_forked{false};

void in_child() {
    if (g_begun) g_forked = true;
}

template <class Function>
bool look_up(void* library, const char* name, Function& function, std::string& missing) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (function == nullptr && missing.empty()) missing = name;
    return function != nullptr;
}

/// The name of the first entry point that the library lacks.
std::string look_up_all(void* library, DriverApi& api) {
    std::string missing;
    look_up(library, "cuInit", api.init, missing);
    look_up(library, "cuDriverGetVersion", api.driver_version, missing);
    look_up(library, "cuGetErrorName", api.error_name, missing);
    look_up(library, "cuDeviceGetCount", api.device_count, missing);
    look_up(library, "cuDeviceGet", api.device_get, missing);
    look_up(library, "cuDeviceGetName", api.device_name, missing);
    look_up(library, "cuDeviceGetAttribute", api.device_attribute, missing);
    look_up(library, "cuDeviceTotalMem_v2", api.device_memory, missing);
    look_up(library, "cuDevicePrimaryCtxRetain", api.retain_context, missing);
    look_up(library, "cuCtxPushCurrent_v2", api.push_context, missing);
    look_up(library, "cuCtxPopCurrent_v2", api.pop_context, missing);
    look_up(library, "cuModuleLoadData", api.load_module, missing);
    look_up(library, "cuModuleGetFunction", api.module_function, missing);
    look_up(library, "cuFuncSetAttribute", api.function_attribute, missing);
    look_up(library, "cuPointerGetAttribute", api.pointer_attribute, missing);
    look_up(library, "cuLaunchKernel", api.launch, missing);
    look_up(library, "cuStreamSynchronize", api.synchronize, missing);
    return missing;
}

std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// Why CUDA cannot be used, or nothing.
std::string begin(DriverApi& api, int& version) {
    if (kImages[0].name == nullptr) return "a native extension built without CUDA kernels";
    // The variable is for tests, and for drivers in places that the loader does not search.
    const char* named = std::getenv("GRADSIFT_CUDA_DRIVER");
    const char* const path = named != nullptr && *named != '\0' ? named : "libcuda.so.1";
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char* const why = dlerror();
        return std::string("no NVIDIA driver (") + (why != nullptr ? why : path) + ")";
    }
    if (const std::string missing = look_up_all(library, api); !missing.empty()) {
        return std::string("an NVIDIA driver older than ") + kOldestRelease + ", which has no " + missing;
    }
    // Before cuInit, which also fails for a driver that is only too old.
    if (const CUresult result = api.driver_version(&version); result != kSuccess) {
        return "a driver that does not tell its version: " + error_name(result);
    }
    if (version < kOldestVersion) {
        return "an NVIDIA driver for CUDA " + version_text(version) + ", older than the CUDA " +
               version_text(kOldestVersion) + " (driver " + kOldestRelease + ") that the kernels need";
    }
    g_begun = true;
    if (const CUresult result = api.init(0); result != kSuccess) {
        if (result == kErrorNoDevice) return "an NVIDIA driver without a device (see CUDA_VISIBLE_DEVICES)";
        return "cuInit: " + error_name(result);
    }
    return "";
}

}  // namespace

Driver driver() {
    static const int watches = pthread_atfork(nullptr, nullptr, in_child);
    static_cast<void>(watches);
    if (g_forked) {
        return {nullptr, 0, "a process forked from one that uses CUDA; start it by the method 'spawn' instead"};
    }
    const std::lock_guard<std::mutex> lock(g_mutex);
    if (g_driver.api != nullptr) return g_driver;
    Driver found;
    found.reason = begin(g_api, found.version);
    if (!found.reason.empty()) return found;
    found.api = &g_api;
    g_driver = found;
    return g_driver;
}

const DriverApi& require_driver() {
    const Driver found = driver();
    if (found.api == nullptr) {
        throw Unavailable("backend: expected CUDA kernels and a driver for 'cuda', got " + found.reason +
                          "; gradsift.backends.explain(op) says what can run here");
    }
    return *found.api;
}

std::string error_name(CUresult result) {
    const char* name = nullptr;
    if (g_api.error_name == nullptr || g_api.error_name(result, &name) != kSuccess || name == nullptr) {
        return "CUDA error " + std::to_string(result);
    }
    return name;
}

}  // namespace gradsift::cuda
