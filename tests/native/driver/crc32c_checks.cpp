#include <cstring>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "checks.h"
#include "common/isa.h"
#include "crc32c/crc32c.h"

namespace driver {
namespace {

void expect(uint32_t got, uint32_t want, size_t bytes) {
    if (got == want) return;
    throw std::runtime_error("crc32c of " + std::to_string(bytes) + " bytes: expected " + std::to_string(want) +
                             ", got " + std::to_string(got));
}

}  // namespace

void check_crc32c(Memory memory) {
    std::vector<size_t> lengths(68);
    std::iota(lengths.begin(), lengths.end(), size_t{0});
    for (const size_t streams : {3072, 6144}) {  // three streams of 1,024 bytes side by side, and what is left over
        for (const size_t more : {0, 1, 8, 1027}) lengths.push_back(streams + more);
    }
    std::vector<uint32_t> tables;  // values of the first instruction set looked at
    for (const gradsift::Isa isa : gradsift::isas()) {
        gradsift::set_isa(gradsift::isa_name(isa));
        set_doing(std::string("crc32c, ") + gradsift::isa_name(isa));
        expect(gradsift::crc32c("123456789", 9, 0), 0xE3069283u, 9);  // the usual check value
        std::vector<uint32_t> values;
        for (const Side side : {Side::kEnd, Side::kFront}) {
            for (const size_t bytes : lengths) {
                const Block block(memory, side, bytes);
                auto* const data = block.as<unsigned char>();
                for (size_t k = 0; k < bytes; ++k) data[k] = static_cast<unsigned char>(37 * k + bytes);
                const uint32_t whole = gradsift::crc32c(data, bytes, 0);
                values.push_back(whole);
                const size_t cut = bytes / 3;
                expect(gradsift::crc32c(data + cut, bytes - cut, gradsift::crc32c(data, cut, 0)), whole, bytes);
            }
        }
        if (tables.empty()) tables = values;
        for (size_t k = 0; k < values.size(); ++k) expect(values[k], tables[k], lengths[k % lengths.size()]);
    }
    set_doing("");
}

}  // namespace driver
