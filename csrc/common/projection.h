// The code form of docs/projection-spec.md.
#pragma once
#include <cstdint>
#include <vector>

#include "common/sketch_plan.h"

namespace gradsift {

/// Names one random matrix over all parameters.
struct Projection {
    ProjectionKind kind = ProjectionKind::kXor;
    int64_t proj_dim = 0;
    uint64_t seed = 0;
    int nonzeros = 1;

    /// 1/√nonzeros, or 1/√P for the dense kind: a kernel adds ±Γ and the sum is scaled once.
    float scale() const;
};

/// Throws std::invalid_argument unless the projection is one of version 1.
void check_projection(const Projection& projection);

/// Rows of a parameter: count from `first` on, or those that `ids` lists.
struct RowList {
    const int64_t* ids;
    int64_t first, count;

    int64_t at(int64_t k) const { return ids != nullptr ? ids[k] : first + k; }
};

constexpr int kMaxNonzeros = 8;

/// Runs of 128 entries whose signs are drawn at a time: 64 KB of float32.
constexpr int64_t kPanelRuns = 128;

/// Draws what the xor kind reads of each listed row and `blocks` blocks of columns from `first_block` on: `signs` and
/// `masks`, each (nonzeros, rows.count, blocks). At most kPanelRuns of them a repeat.
void draw_blocks(const Projection& projection, uint64_t param_id, const RowList& rows, int64_t first_block,
                 int64_t blocks, uint32_t (*signs)[4], uint32_t* masks);

/// What a kernel reads of a projection besides signs and masks.
SketchPlan sketch_plan(const Projection& projection, uint64_t param_id, int64_t cols);

/// Signs and masks of one parameter (rows, cols), drawn once a call and shared by its samples: an eighth of a byte an
/// entry. For kernels that come back to an entry.
class ProjectionTables {
  public:
    ProjectionTables(const Projection& projection, uint64_t param_id, int64_t rows, int64_t cols, int threads);

    const SketchPlan& plan() const { return plan_; }

  private:
    std::vector<uint32_t> signs_;
    std::vector<uint32_t> masks_;
    SketchPlan plan_;
};

}  // namespace gradsift
