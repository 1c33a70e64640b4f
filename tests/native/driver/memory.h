// Memory whose bounds are felt: one element too far is a fault, or a report of a sanitizer.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace driver {

enum class Memory {
    kHeap,   // blocks of exactly the size asked for, for AddressSanitizer's red zones
    kGuard,  // pages of their own between two that cannot be touched
};

/// Where data lies within its pages: against the page after it, or the one before. On the heap this makes no
/// difference.
enum class Side { kEnd, kFront };

/// `bytes` bytes, filled with 0xFF, which is NaN in every floating type here.
class Block {
  public:
    Block(Memory memory, Side side, size_t bytes);

    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(data_);
    }

  private:
    struct Unmap {
        size_t bytes;
        void operator()(unsigned char* pages) const;
    };
    std::unique_ptr<unsigned char[]> heap_;
    std::unique_ptr<unsigned char, Unmap> pages_{nullptr, Unmap{0}};
    unsigned char* data_ = nullptr;
};

}  // namespace driver
