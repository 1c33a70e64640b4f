// cp.async: copies that land when the settings say, at the latest where they are waited for.
#pragma once
#include "cuda/emulator/block.h"

namespace gradsift::emulator {

/// Waits until at most `left` of the thread's groups are in flight.
void wait_for_copies(int left);

}  // namespace gradsift::emulator

namespace gradsift::cuda {

void cp_async16(void* shared, const void* global, int bytes = 16);
void cp_async_commit();
template <int kLeft>
void cp_async_wait() {
    emulator::wait_for_copies(kLeft);
}

}  // namespace gradsift::cuda
