#include "round_rows/round_rows_kernel.h"

namespace gradsift {

void round_rows_neon(const RoundRows& call) { round_each_row(call); }

}  // namespace gradsift
