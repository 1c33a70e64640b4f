// The entry points of the CUDA driver that are used, looked up in libcuda.so.1 at first use: no CUDA header is needed
// to build and no CUDA library to import.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace gradsift::cuda {

using CUresult = int;
using CUdevice = int;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;

// Of cuda.h; their numbers are part of the driver's binary interface.
constexpr CUresult kSuccess = 0;
constexpr CUresult kErrorOutOfMemory = 2;
constexpr CUresult kErrorNoDevice = 100;
constexpr CUresult kErrorNoBinary = 209;        // CUDA_ERROR_NO_BINARY_FOR_GPU
constexpr CUresult kErrorUnsupportedPtx = 222;  // CUDA_ERROR_UNSUPPORTED_PTX_VERSION
constexpr int kAttributeMultiprocessors = 16;
constexpr int kAttributeMajor = 75;
constexpr int kAttributeMinor = 76;
constexpr int kAttributeSharedOptin = 97;  // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
constexpr int kFunctionSharedSize = 8;     // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kPointerMemoryType = 2;
constexpr int kPointerOrdinal = 9;
constexpr unsigned kMemoryTypeHost = 1;

struct DriverApi {
    CUresult (*init)(unsigned);
    CUresult (*driver_version)(int*);
    CUresult (*error_name)(CUresult, const char**);
    CUresult (*device_count)(int*);
    CUresult (*device_get)(CUdevice*, int);
    CUresult (*device_name)(char*, int, CUdevice);
    CUresult (*device_attribute)(int*, int, CUdevice);
    CUresult (*device_memory)(size_t*, CUdevice);
    CUresult (*retain_context)(CUcontext*, CUdevice);
    CUresult (*push_context)(CUcontext);
    CUresult (*pop_context)(CUcontext*);
    CUresult (*load_module)(CUmodule*, const void*);
    CUresult (*module_function)(CUfunction*, CUmodule, const char*);
    CUresult (*function_attribute)(CUfunction, int, int);
    CUresult (*pointer_attribute)(void*, int, uintptr_t);
    CUresult (*launch)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                       void**, void**);
    CUresult (*synchronize)(CUstream);
};

/// The driver ready for use, or why it is not. Looked for again as long as there is none; never after a fork, where a
/// driver that the parent has begun to use is of no use.
struct Driver {
    const DriverApi* api = nullptr;
    int version = 0;  // 1000 · major + 10 · minor of the CUDA it runs
    std::string reason;
};
Driver driver();

/// The API; throws Unavailable with the reason.
const DriverApi& require_driver();

/// "CUDA_ERROR_…".
std::string error_name(CUresult result);

}  // namespace gradsift::cuda
