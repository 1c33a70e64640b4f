// Vec before the loop nest that is written over it.
#include "common/vec_avx2.h"

#include "project_linear/project_linear_tile.h"

namespace gradsift {

// Eight chains cover two FMAs a cycle at latency four; twelve would not divide 8, 16 and 128 rows.
// A second vector of columns would be zeros where the weight is one vector wide, as LoRA's B of rank 8 is.
void project_linear_avx2(const LinearSlice& slice) {
    if (slice.cols <= Vec::kLanes) {
        LinearTile<8, 1>::run(slice);
    } else {
        LinearTile<4, 2>::run(slice);
    }
}

}  // namespace gradsift
