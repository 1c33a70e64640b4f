#pragma once
#include "common/isa_table.h"
#include "score_rows/score_rows.h"

namespace gradsift {

/// What the entry knows of a row format.
struct RowFormatInfo {
    bool quantised;  // rotated codes with a scale
    IsaTable<RowKernelFn> kernels;
    void (*widen)(const uint8_t* row, int64_t dim, float* out);  // the row's numbers; null where quantised
};

/// Throws std::invalid_argument where no kernel reads this format.
const RowFormatInfo& row_format(RowFormat format);

}  // namespace gradsift
