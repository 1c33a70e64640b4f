#include "cuda/launch.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "common/check.h"
#include "cuda/driver_api.h"
#include "cuda/errors.h"
#include "cuda/images.h"

namespace gradsift::cuda {
namespace {

constexpr size_t kSharedWithoutAsking = 48 << 10;

struct Function {
    CUfunction handle = nullptr;
    size_t shared_bytes = kSharedWithoutAsking;
};

struct Device {
    DeviceInfo info;
    CUcontext context = nullptr;
    std::map<std::string, CUmodule> modules;
    std::map<std::pair<std::string, std::string>, Function> functions;
};

std::mutex g_mutex;
// Contexts and modules stay for the process: others, torch among them, use the same context to its end.
std::map<int, std::unique_ptr<Device>> g_devices;

std::string device_text(int device, const DeviceInfo& info) {
    return "device " + std::to_string(device) + " (" + info.name + ", compute capability " +
           std::to_string(info.major) + "." + std::to_string(info.minor) + ")";
}

/// Throws by what the driver says of `what`.
[[noreturn]] void fail(CUresult result, const std::string& what, int device, const DeviceInfo& info) {
    const std::string where = what + " on " + device_text(device, info);
    if (result == kErrorOutOfMemory) {
        throw OutOfMemory(where + ": expected memory left on the device, got " + error_name(result) +
                          "; take smaller batches, or see what else runs there with nvidia-smi");
    }
    if (result == kErrorNoBinary || result == kErrorUnsupportedPtx) {
        throw Unavailable(where + ": expected one of the architectures that kernels were built for (" + kImageTargets +
                          "), got " + error_name(result) + "; build from source for this card, or run on the CPU");
    }
    throw Failure(where + ": expected success, got " + error_name(result) +
                  "; an earlier kernel may be the cause: run with GRADSIFT_CUDA_SYNC=1, or under compute-sanitizer");
}

/// The context in force on this thread, until the end of the scope.
class Current {
  public:
    Current(const DriverApi& api, Device& device, int number) : api_(api) {
        const CUresult result = api.push_context(device.context);
        if (result != kSuccess) fail(result, "entering the context", number, device.info);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
    ~Current() {
        CUcontext popped;
        api_.pop_context(&popped);
    }

  private:
    const DriverApi& api_;
};

DeviceInfo read_info(const DriverApi& api, int device) {
    CUdevice handle = 0;
    DeviceInfo info;
    char name[256] = "";
    size_t memory = 0;
    int shared = 0;
    const auto check = [&](CUresult result) {
        if (result != kSuccess) fail(result, "reading its properties", device, info);
    };
    check(api.device_get(&handle, device));
    check(api.device_name(name, sizeof name, handle));
    info.name = name;
    check(api.device_attribute(&info.major, kAttributeMajor, handle));
    check(api.device_attribute(&info.minor, kAttributeMinor, handle));
    check(api.device_attribute(&info.multiprocessors, kAttributeMultiprocessors, handle));
    check(api.device_attribute(&shared, kAttributeSharedOptin, handle));
    check(api.device_memory(&memory, handle));
    info.shared_bytes = shared;
    info.memory_bytes = static_cast<int64_t>(memory);
    return info;
}

/// Under g_mutex.
Device& device_at(const DriverApi& api, int device) {
    if (const auto found = g_devices.find(device); found != g_devices.end()) return *found->second;
    int count = 0;
    if (const CUresult result = api.device_count(&count); result != kSuccess) {
        throw Unavailable("backend: expected a count of devices, got " + error_name(result));
    }
    require(device >= 0 && device < count, "device: expected 0 to ", count - 1, ", got ", device);
    auto made = std::make_unique<Device>();
    made->info = read_info(api, device);
    return *g_devices.emplace(device, std::move(made)).first->second;
}

/// Under g_mutex. The context is not taken before it is needed: that makes one, of hundreds of megabytes.
Device& device_with_context(const DriverApi& api, int device) {
    Device& found = device_at(api, device);
    if (found.context == nullptr) {
        const CUresult result = api.retain_context(&found.context, device);
        if (result != kSuccess) fail(result, "taking the primary context", device, found.info);
    }
    return found;
}

const Image& image_of(const char* name) {
    for (const Image* image = kImages; image->name != nullptr; ++image) {
        if (std::strcmp(image->name, name) == 0) return *image;
    }
    throw Unavailable(std::string("backend: expected the CUDA kernels of ") + name +
                      ", got a native extension built without them; build with GRADSIFT_CUDA=ON (docs/native.md)");
}

/// Under g_mutex and in the device's context.
Function& function_of(const DriverApi& api, Device& device, int number, const char* image, const char* kernel) {
    Function& function = device.functions[{image, kernel}];
    if (function.handle != nullptr) return function;
    CUmodule& module = device.modules[image];
    if (module == nullptr) {
        const CUresult result = api.load_module(&module, image_of(image).begin);
        if (result != kSuccess) fail(result, std::string("loading the kernels of ") + image, number, device.info);
    }
    const CUresult result = api.module_function(&function.handle, module, kernel);
    if (result != kSuccess) fail(result, std::string("finding the kernel ") + kernel, number, device.info);
    return function;
}

bool waits_after_launch() {
    const char* const value = std::getenv("GRADSIFT_CUDA_SYNC");
    return value != nullptr && std::strcmp(value, "1") == 0;
}

std::string launch_text(const char* kernel, const Grid& grid) {
    return std::string("launching ") + kernel + " with " + std::to_string(grid.x) + " x " + std::to_string(grid.y) +
           " x " + std::to_string(grid.z) + " blocks of " + std::to_string(grid.threads) + " threads and " +
           std::to_string(grid.shared_bytes) + " bytes of shared memory";
}

}  // namespace

bool built() { return kImages[0].name != nullptr; }

std::string unavailable_reason() { return driver().reason; }

int driver_version() { return driver().version; }

int device_count() {
    int count = 0;
    const CUresult result = require_driver().device_count(&count);
    if (result != kSuccess) throw Unavailable("backend: expected a count of devices, got " + error_name(result));
    return count;
}

const DeviceInfo& device_info(int device) {
    const DriverApi& api = require_driver();
    const std::lock_guard<std::mutex> lock(g_mutex);
    return device_at(api, device).info;
}

void check_pointer(const char* argument, const void* pointer, int device) {
    const DriverApi& api = require_driver();
    Device* found;
    {
        const std::lock_guard<std::mutex> lock(g_mutex);
        found = &device_with_context(api, device);
    }
    const Current current(api, *found, device);
    unsigned type = 0;
    int ordinal = -1;
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    // Memory that CUDA has not allocated has no attributes.
    const bool known = api.pointer_attribute(&type, kPointerMemoryType, address) == kSuccess &&
                       api.pointer_attribute(&ordinal, kPointerOrdinal, address) == kSuccess;
    require(known && type != kMemoryTypeHost, argument, ": expected memory of device ", device,
            ", got an address in host memory; move it to the device");
    require(ordinal == device, argument, ": expected memory of device ", device, ", got memory of device ", ordinal,
            "; all arrays of a call must lie on one device");
}

void launch_bytes(const char* image, const char* kernel, const Place& place, const Grid& grid, const void* args) {
    const DriverApi& api = require_driver();
    Device* device;
    CUfunction function;
    const auto stream = reinterpret_cast<CUstream>(place.stream);
    const std::unique_lock<std::mutex> lock(g_mutex);
    device = &device_with_context(api, place.device);
    const Current current(api, *device, place.device);
    Function& found = function_of(api, *device, place.device, image, kernel);
    if (grid.shared_bytes > found.shared_bytes) {
        const CUresult result =
            api.function_attribute(found.handle, kFunctionSharedSize, static_cast<int>(grid.shared_bytes));
        if (result != kSuccess) fail(result, launch_text(kernel, grid), place.device, device->info);
        found.shared_bytes = grid.shared_bytes;
    }
    function = found.handle;
    void* arguments[] = {const_cast<void*>(args)};
    CUresult result = api.launch(function, grid.x, grid.y, grid.z, grid.threads, 1, 1,
                                 static_cast<unsigned>(grid.shared_bytes), stream, arguments, nullptr);
    if (result == kSuccess && waits_after_launch()) result = api.synchronize(stream);
    if (result != kSuccess) fail(result, launch_text(kernel, grid), place.device, device->info);
}

}  // namespace gradsift::cuda
