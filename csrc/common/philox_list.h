// Philox blocks for a list of counters; one file an instruction set. No C++ library header here.
#pragma once
#include <stdint.h>

namespace gradsift {

/// Block n of `count` has the counter (counter[0], counter[1], third[n], fourth[n]) and goes to blocks[n].
struct PhiloxList {
    uint32_t key[2];
    uint32_t counter[2];
    const uint32_t* third;
    const uint32_t* fourth;
    int64_t count;
    uint32_t (*blocks)[4];
};

using PhiloxListFn = void (*)(const PhiloxList&);

void philox_list_scalar(const PhiloxList& list);
void philox_list_avx2(const PhiloxList& list);
void philox_list_avx512(const PhiloxList& list);

}  // namespace gradsift
