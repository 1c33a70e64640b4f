#include "score_rows/score_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "common/check.h"
#include "common/parallel.h"
#include "quantise/quantise.h"
#include "score_rows/formats.h"

namespace gradsift {
namespace {

constexpr std::align_val_t kAlignment{64};
// Sums of squares outside of these may have lost entries to underflow or reached infinity in float32.
constexpr float kSmallestSquares = 1e-30f, kLargestSquares = 1e30f;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

/// H·D·t / √P, which is as long as t, in float64 and rounded once.
void rotate_column(const float* column, const std::vector<uint32_t>& signs, int64_t dim, float* out) {
    std::vector<double> y(column, column + dim);
    for (int64_t i = 0; i < dim; ++i) {
        if ((signs[static_cast<size_t>(i / 32)] >> (i % 32) & 1) != 0) y[i] = -y[i];
    }
    for (int64_t h = 1; h < dim; h *= 2) {
        for (int64_t block = 0; block < dim; block += 2 * h) {
            for (int64_t i = block; i < block + h; ++i) {
                const double a = y[i], b = y[i + h];
                y[i] = a + b;
                y[i + h] = a - b;
            }
        }
    }
    const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
    for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<float>(y[i] * scale);
}

/// What one thread works in, kept from tile to tile.
struct Workspace {
    explicit Workspace(int64_t columns)
        : totals(static_cast<size_t>(columns * kTileRows)), scratch(new (kAlignment) uint8_t[kTileScratchBytes]) {}
    ~Workspace() { operator delete[](scratch, kAlignment); }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    std::vector<double> totals;  // as `dots`, of all columns
    alignas(64) float dots[kTileColumns * kTileRows];
    float squares[kTileRows];
    double inverse[kTileRows];  // 1 / ‖row‖
    uint8_t status[kTileRows];
    bool again[kTileRows];  // to be computed in float64
    uint8_t* scratch;
};

/// Status, and what a row's dots are multiplied with; 0 for rows that they say nothing of.
void normalise(const ScoreRows::Part& part, const RowFormatInfo& format, int64_t first, int64_t count,
               Workspace& work) {
    for (int64_t r = 0; r < count; ++r) {
        const float squares = work.squares[r];
        work.inverse[r] = 0.0;
        work.again[r] = false;
        if (format.quantised) {
            const float scale = part.scales[first + r];
            if (scale > 0.0f && squares > 0.0f) {
                work.inverse[r] = 1.0 / std::sqrt(static_cast<double>(squares));
            } else {
                const bool zero = scale >= 0.0f;  // NaN: not finite, whatever the codes
                work.status[r] |= zero ? kRowZero : kRowNonfinite;
                work.inverse[r] = zero ? 0.0 : std::numeric_limits<double>::quiet_NaN();
            }
        } else if (squares >= kSmallestSquares && squares <= kLargestSquares) {
            work.inverse[r] = 1.0 / std::sqrt(static_cast<double>(squares));
        } else {
            work.again[r] = true;
        }
    }
}

/// One score of the op: rounded to float32 before it is weighted, so that scores kept by checkpoint add up to the same.
void add_score(const ScoreRows::Part& part, int64_t row, int64_t r, int64_t c, double value, Workspace& work) {
    const float score = static_cast<float>(value);
    work.totals[static_cast<size_t>(c * kTileRows + r)] += part.weight * static_cast<double>(score);
    if (part.scores) part.scores.row(row)[c] = score;
}

/// A row whose squares float32 cannot hold: its status, or its scores in float64.
void score_again(const ScoreRows::Part& part, const RowFormatInfo& format, int64_t first, int64_t r, Workspace& work) {
    const MatrixView<const float> targets = part.targets->targets();
    const int64_t dim = targets.cols;
    std::vector<float> row(static_cast<size_t>(dim));
    format.widen(part.rows + (first + r) * part.stride_bytes, dim, row.data());
    double squares = 0.0;
    for (const float x : row) squares += static_cast<double>(x) * x;
    if (!std::isfinite(squares)) {
        work.status[r] |= kRowNonfinite;
        for (int64_t c = 0; c < targets.rows && part.scores; ++c) part.scores.row(first + r)[c] = kNan;
        return;
    }
    if (squares == 0.0) work.status[r] |= kRowZero;
    const double inverse = squares == 0.0 ? 0.0 : 1.0 / std::sqrt(squares);
    for (int64_t c = 0; c < targets.rows; ++c) {
        const float* const target = targets.row(c);
        double dot = 0.0;
        for (int64_t k = 0; k < dim; ++k) dot += static_cast<double>(row[static_cast<size_t>(k)]) * target[k];
        add_score(part, first + r, r, c, dot * inverse, work);
    }
}

void add_part(const ScoreRows::Part& part, int64_t first, int64_t count, bool last, Workspace& work) {
    const ScoreTargets& targets = *part.targets;
    const RowFormatInfo& format = row_format(targets.format());
    ScoreTile tile{};
    tile.rows = part.rows + first * part.stride_bytes;
    tile.stride_bytes = part.stride_bytes;
    tile.count = count;
    tile.dim = targets.targets().cols;
    tile.dots = work.dots;
    tile.squares = work.squares;
    tile.scratch = work.scratch;
    bool some_again = false;
    for (const ScoreTargets::Block& block : targets.blocks()) {
        tile.packed = block.packed;
        tile.variant = block.variant;
        tile.columns = block.columns;
        const bool last_block = block.first + block.columns == targets.targets().rows;
        tile.ahead = last_block && !last ? tile.rows + count * part.stride_bytes : nullptr;
        targets.kernel().tile(tile);
        if (block.first == 0) {
            normalise(part, format, first, count, work);
            some_again = std::any_of(work.again, work.again + count, [](bool again) { return again; });
        }
        for (int64_t c = 0; c < block.columns; ++c) {
            const float* const dots = work.dots + c * kTileRows;
            if (!some_again && !part.scores) {
                double* const totals = work.totals.data() + (block.first + c) * kTileRows;
                for (int64_t r = 0; r < count; ++r) {
                    const float score = static_cast<float>(work.inverse[r] * static_cast<double>(dots[r]));
                    totals[r] += part.weight * static_cast<double>(score);
                }
                continue;
            }
            for (int64_t r = 0; r < count; ++r) {
                if (work.again[r]) continue;  // its dots may be NaN
                add_score(part, first + r, r, block.first + c, work.inverse[r] * static_cast<double>(dots[r]), work);
            }
        }
    }
    for (int64_t r = 0; r < count && some_again; ++r) {
        if (work.again[r]) score_again(part, format, first, r, work);
    }
}

/// Turns columns of totals into rows of scores, some rows at a time: both stay in the first cache.
void write_scores(const ScoreRows& call, int64_t first, int64_t count, int64_t columns, const Workspace& work) {
    constexpr int64_t kRowsAtOnce = 8;
    for (int64_t begin = 0; begin < count; begin += kRowsAtOnce) {
        const int64_t end = std::min(begin + kRowsAtOnce, count);
        for (int64_t c = 0; c < columns; ++c) {
            const double* const totals = work.totals.data() + c * kTileRows;
            for (int64_t r = begin; r < end; ++r) call.scores.row(first + r)[c] = static_cast<float>(totals[r]);
        }
    }
}

void write_tile(const ScoreRows& call, int64_t first, int64_t count, int64_t columns, Workspace& work) {
    float value[kTileRows], score[kTileRows];
    int32_t best[kTileRows] = {};
    double sum[kTileRows] = {};
    std::fill(value, value + kTileRows, -std::numeric_limits<float>::infinity());
    // Loops over all rows that a tile can have, one type of number each: compilers make vectors of them.
    for (int32_t c = 0; c < static_cast<int32_t>(columns); ++c) {
        const double* const totals = work.totals.data() + c * kTileRows;
        for (int64_t r = 0; r < kTileRows; ++r) score[r] = static_cast<float>(totals[r]);
        for (int64_t r = 0; r < kTileRows; ++r) {
            best[r] = score[r] > value[r] ? c : best[r];
            value[r] = score[r] > value[r] ? score[r] : value[r];
        }
        for (int64_t r = 0; r < kTileRows && call.reduce == Reduce::kMean; ++r) sum[r] += static_cast<double>(score[r]);
    }
    if (call.scores) write_scores(call, first, count, columns, work);
    for (int64_t r = 0; r < count; ++r) {
        const int64_t row = first + r;
        const bool hidden = (work.status[r] & call.hide) != 0 || (call.excluded != nullptr && call.excluded[row] != 0);
        if (call.status != nullptr) call.status[row] = work.status[r];
        if (call.best != nullptr) call.best[row] = hidden ? 0 : best[r];
        if (call.influence != nullptr) {
            const float mean = static_cast<float>(sum[r] / static_cast<double>(columns));
            call.influence[row] = hidden ? kNan : call.reduce == Reduce::kMean ? mean : value[r];
        }
        if (call.scores && hidden) std::fill_n(call.scores.row(row), columns, kNan);
    }
}

}  // namespace

void ScoreTargets::Free::operator()(uint8_t* memory) const { operator delete[](memory, kAlignment); }

ScoreTargets::ScoreTargets(MatrixView<const float> targets, RowFormat format, uint64_t seed)
    : targets_(targets), format_(format) {
    const RowFormatInfo& info = row_format(format);
    const int64_t columns = targets.rows, dim = targets.cols;
    require(columns >= 1, "targets: expected at least one column, got ", columns);
    require(dim >= 1, "targets: expected at least one number a column, got ", dim);
    kernel_ = info.kernels.pick(active_isa())(format);
    std::vector<uint32_t> signs;
    std::vector<float> rotated;
    if (info.quantised) {
        signs = rotation_signs(seed, dim);
        rotated.resize(static_cast<size_t>(std::min(kTileColumns, columns) * dim));
    }
    int64_t bytes = 0;
    for (int64_t first = 0; first < columns; first += kTileColumns) {
        bytes += rounded_up(kernel_.packed_bytes(std::min(kTileColumns, columns - first), dim), 64);
    }
    memory_.reset(new (kAlignment) uint8_t[static_cast<size_t>(bytes)]);
    int64_t at = 0;
    for (int64_t first = 0; first < columns; first += kTileColumns) {
        const int64_t count = std::min(kTileColumns, columns - first);
        PackColumns call{targets.row(first), targets.row_stride, count, dim};
        if (info.quantised) {
            for (int64_t c = 0; c < count; ++c) {
                rotate_column(targets.row(first + c), signs, dim, rotated.data() + c * dim);
            }
            call.targets = rotated.data();
            call.stride = dim;
        }
        uint8_t* const packed = memory_.get() + at;
        blocks_.push_back({first, count, packed, kernel_.pack(call, packed)});
        at += rounded_up(kernel_.packed_bytes(count, dim), 64);
    }
}

void score_rows(const ScoreRows& call) {
    require(!call.parts.empty(), "parts: expected at least one, got none");
    require(call.n >= 0, "n: expected a count >= 0, got ", call.n);
    require(call.threads >= 1, "threads: expected a count >= 1, got ", call.threads);
    const int64_t columns = call.parts.front().targets->targets().rows;
    for (const ScoreRows::Part& part : call.parts) {
        require(part.targets->targets().rows == columns, "targets: expected ", columns, " columns in all parts, got ",
                part.targets->targets().rows);
    }
    // Tiles that follow one another are one thread's, which asks for the next while it works on one; and every thread
    // has several such runs, so that none waits long for another.
    const int64_t tiles = (call.n + kTileRows - 1) / kTileRows;
    const int64_t run = std::clamp<int64_t>(tiles / (int64_t{8} * call.threads), 1, 16);
    parallel_for((tiles + run - 1) / run, call.threads, [&](int64_t index) {
        thread_local std::unique_ptr<Workspace> t_work;
        if (!t_work || static_cast<int64_t>(t_work->totals.size()) != columns * kTileRows) {
            t_work = std::make_unique<Workspace>(columns);
        }
        Workspace& work = *t_work;
        const int64_t stop = std::min((index + 1) * run, tiles);
        for (int64_t tile = index * run; tile < stop; ++tile) {
            const int64_t first = tile * kTileRows, count = std::min(kTileRows, call.n - first);
            std::fill(work.totals.begin(), work.totals.end(), 0.0);
            std::fill(work.status, work.status + kTileRows, uint8_t{0});
            for (const ScoreRows::Part& part : call.parts) add_part(part, first, count, tile + 1 == stop, work);
            write_tile(call, first, count, columns, work);
        }
    });
}

}  // namespace gradsift
