// The compiled kernels inside this library; the table is made by cmake/cuda.cmake.
#pragma once

namespace gradsift::cuda {

/// One .cu file for every architecture, as nvcc's fatbin.
struct Image {
    const char* name;  // of the file, without .cu
    const unsigned char* begin;
    const unsigned char* end;
};

/// Ends with one of no name; nothing else where the library was built without nvcc.
extern const Image kImages[];

/// What they were compiled for, such as "sm_80 sm_90 sm_100 compute_100".
extern const char* const kImageTargets;

}  // namespace gradsift::cuda
