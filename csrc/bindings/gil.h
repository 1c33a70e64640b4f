#pragma once
#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace gradsift {

/// The GIL released. Before Python 3.14 a thread that asks for it back when the interpreter has ended is ended itself,
/// by pthread_exit, whose unwinding aborts the process where it would leave a destructor, as that of
/// py::gil_scoped_release. Here the thread waits for the process to end, as Python 3.14 has it.
class GilReleased {
  public:
    GilReleased() : state_(PyEval_SaveThread()) {}
    GilReleased(const GilReleased&) = delete;
    GilReleased& operator=(const GilReleased&) = delete;
    ~GilReleased() {
#if defined(__GLIBCXX__)
        try {
            PyEval_RestoreThread(state_);
        } catch (const abi::__forced_unwind&) {
            for (;;) pause();
        }
#else
        PyEval_RestoreThread(state_);
#endif
    }

  private:
    PyThreadState* const state_;
};

}  // namespace gradsift
