// Vec before the loop nest that is written over it.
#include "common/vec_scalar.h"

#include "project_linear/project_linear_nest.h"

namespace gradsift {
namespace {

// Eight accumulators of sixteen registers leave room for two loads and a broadcast.
template <class T>
using Tiles = FloatTiles<T, 4, 2>;

}  // namespace

void project_linear_scalar(const LinearSlice& slice) { run_linear_of<Tiles>(slice); }

}  // namespace gradsift
