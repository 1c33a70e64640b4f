#include "cases.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <stdexcept>

namespace driver {
namespace {

static_assert(std::endian::native == std::endian::little);
constexpr char kMagic[8] = {'G', 'S', 'C', 'A', 'S', 'E', 'S', '1'};

class Reader {
  public:
    explicit Reader(const std::string& path) : path_(path), stream_(path, std::ios::binary) {
        if (!stream_) throw std::runtime_error(path + ": cannot be opened");
    }

    template <class T>
    void into(T* to, int64_t count) {
        const auto bytes = static_cast<std::streamsize>(count * static_cast<int64_t>(sizeof(T)));
        stream_.read(reinterpret_cast<char*>(to), bytes);
        if (stream_.gcount() != bytes) throw std::runtime_error(path_ + ": ends within a case");
    }

    template <class T>
    void into(std::vector<T>& to, int64_t count) {
        to.resize(static_cast<size_t>(count));
        into(to.data(), count);
    }

    bool at_end() { return stream_.peek() == std::ifstream::traits_type::eof(); }

  private:
    std::string path_;
    std::ifstream stream_;
};

int64_t bytes_of(int64_t dtype) { return dtype == 0 ? 4 : 2; }

}  // namespace

std::vector<Case> read_cases(const std::string& path) {
    Reader reader(path);
    char magic[8];
    reader.into(magic, 8);
    if (std::memcmp(magic, kMagic, 8) != 0) throw std::runtime_error(path + ": expected GSCASES1 at its beginning");
    int64_t count = 0;
    reader.into(&count, 1);
    std::vector<Case> cases(static_cast<size_t>(count));
    for (Case& one : cases) {
        CaseHeader& h = one.header;
        reader.into(&h, 1);
        if (h.op != Op::kRows) reader.into(one.cu_seqlens, h.samples + 1);
        if (h.op == Op::kSparseRows) reader.into(one.row_ids, h.tokens);
        reader.into(one.inputs, h.tokens * h.d_in * bytes_of(h.dtype));
        if (h.op == Op::kLinear) reader.into(one.output_grads, h.tokens * h.d_out * bytes_of(h.dtype));
        if (h.moment_dtype >= 0) {
            reader.into(one.first, h.d_out * h.d_in * bytes_of(h.moment_dtype));
            reader.into(one.second, h.d_out * h.d_in * bytes_of(h.moment_dtype));
        }
        reader.into(one.sketches, h.samples * h.proj_dim);
        reader.into(one.norms, h.samples * 2);
    }
    if (!reader.at_end()) throw std::runtime_error(path + ": goes on after its last case");
    return cases;
}

}  // namespace driver
