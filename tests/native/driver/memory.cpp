#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <system_error>

namespace driver {

void Block::Unmap::operator()(unsigned char* pages) const { munmap(pages, bytes); }

Block::Block(Memory memory, Side side, size_t bytes) {
    if (memory == Memory::kHeap) {
        heap_.reset(new unsigned char[bytes]);
        data_ = heap_.get();
    } else {
        const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const size_t inside = (bytes + page - 1) / page * page;
        const size_t whole = inside + 2 * page;
        void* const mapped = mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
        pages_ = {static_cast<unsigned char*>(mapped), Unmap{whole}};
        unsigned char* const first = pages_.get() + page;
        if (inside > 0 && mprotect(first, inside, PROT_READ | PROT_WRITE) != 0) {
            throw std::system_error(errno, std::generic_category(), "mprotect");
        }
        if (inside > 0) std::memset(first, 0xFF, inside);
        data_ = side == Side::kEnd ? first + inside - bytes : first;
    }
    if (bytes > 0) std::memset(data_, 0xFF, bytes);
}

}  // namespace driver
