#include "common/philox.h"
#include "common/philox_list.h"

namespace gradsift {

void philox_list_scalar(const PhiloxList& list) {
    for (int64_t n = 0; n < list.count; n += kPhiloxLanes) {
        const int64_t left = list.count - n < kPhiloxLanes ? list.count - n : kPhiloxLanes;
        uint32_t x[4][kPhiloxLanes];
        for (int l = 0; l < kPhiloxLanes; ++l) {
            const int64_t from = n + (l < left ? l : 0);
            x[0][l] = list.counter[0];
            x[1][l] = list.counter[1];
            x[2][l] = list.third[from];
            x[3][l] = list.fourth[from];
        }
        philox_rounds(x, list.key[0], list.key[1]);
        for (int64_t l = 0; l < left; ++l) {
            for (int w = 0; w < 4; ++w) list.blocks[n + l][w] = x[w][l];
        }
    }
}

}  // namespace gradsift
