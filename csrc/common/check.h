#pragma once
#include <sstream>
#include <stdexcept>

namespace gradsift {

/// Throws std::invalid_argument with `parts` written one after the other unless `ok`.
template <class... Parts>
void require(bool ok, const Parts&... parts) {
    if (ok) return;
    std::ostringstream text;
    (text << ... << parts);
    throw std::invalid_argument(text.str());
}

}  // namespace gradsift
