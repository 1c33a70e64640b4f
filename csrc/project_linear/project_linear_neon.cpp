// Vec before the loop nest that is written over it.
#include "common/vec_neon.h"

#include "project_linear/project_linear_nest.h"

namespace gradsift {
namespace {

// Sixteen chains cover four FMAs a cycle at latency four. With two vectors of lanes and eight scalars to multiply them
// by, 26 of 32 registers are taken.
template <class T>
using Tiles = FloatTiles<T, 8, 2>;

}  // namespace

void project_linear_neon(const LinearSlice& slice) { run_linear_of<Tiles>(slice); }

}  // namespace gradsift
