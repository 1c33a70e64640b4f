// Vec before the loop nest that is written over it.
#include "common/vec_scalar.h"

#include "project_linear/project_linear_tile.h"

namespace gradsift {

// Eight accumulators of sixteen registers leave room for two loads and a broadcast.
void project_linear_scalar(const LinearSlice& slice) { LinearTile<4, 2>::run(slice); }

}  // namespace gradsift
