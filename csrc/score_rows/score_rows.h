#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "common/matrix_view.h"
#include "score_rows/row_kernel.h"

namespace gradsift {

/// Target columns packed for one row format and the instruction set in force when they are. Holds 4 bytes a number at
/// most, and the address of `targets`, which must outlive it.
class ScoreTargets {
  public:
    /// targets (S, P) float32, finite. `seed` is that of the rotation of quantised rows.
    /// Throws std::invalid_argument on an unknown format or sizes it has no rows of.
    ScoreTargets(MatrixView<const float> targets, RowFormat format, uint64_t seed);

    struct Block {
        int64_t first, columns;
        const uint8_t* packed;
        int variant;
    };

    const std::vector<Block>& blocks() const { return blocks_; }
    const RowKernel& kernel() const { return kernel_; }
    MatrixView<const float> targets() const { return targets_; }
    RowFormat format() const { return format_; }

  private:
    struct Free {
        void operator()(uint8_t* memory) const;
    };
    MatrixView<const float> targets_;
    RowFormat format_;
    RowKernel kernel_;
    std::unique_ptr<uint8_t[], Free> memory_;
    std::vector<Block> blocks_;
};

/// Status of a row, by the bits of a datastore's flags.
constexpr uint8_t kRowNonfinite = 2, kRowZero = 4;

enum class Reduce : int { kMax = 0, kMean = 1 };

/// A block of rows at all checkpoints: score[r, s] = Σ_c weight_c · ⟨row, target⟩ / ‖row‖, then over columns.
///
/// Products and squared norms in float32, division in float64, each checkpoint's score rounded to float32; their
/// weighted sum in float64, rounded once. A row of zeros adds
/// 0; one with a NaN or an infinity makes its scores NaN. A row whose squared norm float32 cannot hold well is computed
/// in float64. No bit depends on threads or on how rows are cut into blocks.
struct ScoreRows {
    struct Part {
        const ScoreTargets* targets = nullptr;
        const uint8_t* rows = nullptr;  // as stored
        int64_t stride_bytes = 0;       // of any size and sign
        const float* scales = nullptr;  // n, of quantised rows
        double weight = 1.0;
        MatrixView<float> scores;  // out: (n, S), of this checkpoint alone, NaN where the row is not finite; or no data
    };
    std::vector<Part> parts;  // one a checkpoint, of one number of columns S ≥ 1
    int64_t n = 0;
    Reduce reduce = Reduce::kMax;
    const uint8_t* excluded = nullptr;  // n, nonzero: outputs are NaN; or null
    uint8_t hide = kRowNonfinite;       // status bits that make outputs NaN

    // Outputs; any may be null.
    float* influence = nullptr;  // n
    int32_t* best = nullptr;     // n: the column of the highest score, the first of equals; 0 where influence is NaN
    uint8_t* status = nullptr;   // n: bits of all checkpoints
    MatrixView<float> scores;    // (n, S)
    int threads = 1;
};

void score_rows(const ScoreRows& call);

}  // namespace gradsift
