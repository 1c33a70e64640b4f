// What can go wrong with a card, as exceptions; csrc/bindings/cuda.cpp turns each into its class of gradsift.errors.
#pragma once
#include <stdexcept>

namespace gradsift::cuda {

/// CUDA cannot be used here: no driver, one too old, no kernels for this card, ….
struct Unavailable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The card has no memory left.
struct OutOfMemory : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// A launch, or a kernel before it, failed.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace gradsift::cuda
