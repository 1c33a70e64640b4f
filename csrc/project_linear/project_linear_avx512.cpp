// Vec before the loop nest that is written over it.
#include "common/vec_avx512.h"

#include "project_linear/project_linear_tile.h"

namespace gradsift {

// Sixteen chains; eight rows divide every LoRA rank, and 32 columns of 256 tokens are 32 KB.
// A second vector of columns would be zeros where the weight is one vector wide, as LoRA's B of rank 16 is.
void project_linear_avx512(const LinearSlice& slice) {
    if (slice.cols <= Vec::kLanes) {
        LinearTile<16, 1>::run(slice);
    } else {
        LinearTile<8, 2>::run(slice);
    }
}

}  // namespace gradsift
