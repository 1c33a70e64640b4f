// The fastest plain read that this machine gives, to hold a kernel's streaming against: eight lines a step from each of
// `streams` places, since one place alone leaves the prefetchers of some processors half idle. Built by bandwidth.py.
#include <stddef.h>
#include <stdint.h>

typedef uint64_t Line __attribute__((vector_size(64), aligned(64), may_alias));

// The sum keeps the compiler from leaving the reads out. `bytes` must be a multiple of 512 · streams, `data` aligned to 64.
uint64_t read_all(const void* data, size_t bytes, size_t streams) {
  size_t lines = bytes / 64 / streams;
  const Line* base = data;
  Line sums[8] = {0};
  for (size_t i = 0; i < lines; i += 8) {
    for (size_t s = 0; s < streams; ++s) {
      const Line* at = base + s * lines + i;
      for (int k = 0; k < 8; ++k) {
        __builtin_prefetch(at + k + 64);
        sums[k] += at[k];
      }
    }
  }
  uint64_t total = 0;
  for (int k = 0; k < 8; ++k) {
    for (int j = 0; j < 8; ++j) total += sums[k][j];
  }
  return total;
}
