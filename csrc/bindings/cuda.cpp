#include "bindings/cuda.h"

#include <pybind11/stl.h>

#include <exception>

#include "bindings/gil.h"
#include "cuda/errors.h"
#include "cuda/images.h"
#include "cuda/launch.h"

namespace py = pybind11;

namespace gradsift {
namespace {

void raise_as(const char* name, const std::exception& error) {
    const py::object type = py::module_::import("gradsift.errors").attr(name);
    PyErr_SetString(type.ptr(), error.what());
}

void translate(std::exception_ptr thrown) {
    try {
        std::rethrow_exception(thrown);
    } catch (const cuda::Unavailable& error) {
        raise_as("BackendUnavailableError", error);
    } catch (const cuda::OutOfMemory& error) {
        raise_as("DeviceMemoryError", error);
    } catch (const cuda::Failure& error) {
        raise_as("DeviceError", error);
    }
}

py::dict device_info(int device) {
    cuda::DeviceInfo info;
    {
        const GilReleased no_gil;
        info = cuda::device_info(device);
    }
    py::dict record;
    record["name"] = info.name;
    record["compute_capability"] = py::make_tuple(info.major, info.minor);
    record["multiprocessors"] = info.multiprocessors;
    record["memory_bytes"] = info.memory_bytes;
    record["shared_bytes"] = info.shared_bytes;
    return record;
}

py::dict images() {
    py::dict found;
    for (const cuda::Image* image = cuda::kImages; image->name != nullptr; ++image) {
        found[image->name] =
            py::bytes(reinterpret_cast<const char*>(image->begin), static_cast<size_t>(image->end - image->begin));
    }
    return found;
}

}  // namespace

void bind_cuda(py::module_& m) {
    py::register_local_exception_translator(&translate);
    m.def("cuda_built", &cuda::built, "Whether CUDA kernels were built in.");
    m.def("cuda_unavailable_reason", &cuda::unavailable_reason, py::call_guard<GilReleased>(),
          "Why CUDA kernels cannot run here; empty where they can.");
    m.def("cuda_driver_version", &cuda::driver_version, py::call_guard<GilReleased>(),
          "1000 · major + 10 · minor of the CUDA that the driver runs; 0 without one.");
    m.def("cuda_device_count", &cuda::device_count, py::call_guard<GilReleased>(), "Devices that the driver shows.");
    m.def("cuda_device_info", &device_info, py::arg("device"), "Name, compute capability and sizes of a device.");
    m.def("cuda_images", &images, "The fatbins built in, by the .cu file they are of.");
    m.attr("cuda_targets") = cuda::kImageTargets;
    bind_cuda_project_rows(m);
    bind_cuda_quantise(m);
    bind_cuda_score_rows(m);
}

}  // namespace gradsift
