#pragma once
#include <cstdint>
#include <functional>

namespace gradsift {

/// Runs body(0) … body(count − 1), each once, on at most `threads` threads, the caller among them; returns when all
/// are done. Which thread runs which index is open, so a body must write only what belongs to its index.
///
/// The first exception of a body is thrown again here after the running ones end; indices not yet begun are dropped.
/// Not OpenMP: a child forked after its parent used GNU OpenMP hangs, and data loaders fork. Here a child starts
/// with no helpers and makes its own. Nested and concurrent calls run on their caller alone.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body);

}  // namespace gradsift
