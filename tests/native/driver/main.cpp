// Checks the kernels without Python: cases with known answers, on every instruction set of this CPU, in memory whose
// bounds are felt, by one caller, by two at once, and nested in the kernels' own thread pool.
#include <unistd.h>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cases.h"
#include "checks.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace {

using driver::Case;
using driver::Memory;

constexpr char kUsage[] =
    "usage: kernel_driver CASES [--memory guard|heap] [--callers one|two|nested] [--isa NAME]\n"
    "  --memory   guard (default): pages that fault around every array; heap: exact blocks, for AddressSanitizer\n"
    "  --callers  one (default); two: two threads make all calls at once; nested: calls from the kernels' thread pool\n"
    "  --isa      one instruction set instead of all that this CPU has\n";

struct Options {
    std::string cases;
    Memory memory = Memory::kGuard;
    std::string callers = "one";
    std::string isa;
};

Options parse(int count, char** words) {
    if (count < 2 || count % 2 != 0) throw std::invalid_argument(kUsage);
    Options options;
    options.cases = words[1];
    for (int k = 2; k < count; k += 2) {
        const std::string name = words[k], value = words[k + 1];
        if (name == "--memory" && (value == "guard" || value == "heap")) {
            options.memory = value == "heap" ? Memory::kHeap : Memory::kGuard;
        } else if (name == "--callers" && (value == "one" || value == "two" || value == "nested")) {
            options.callers = value;
        } else if (name == "--isa") {
            options.isa = value;
        } else {
            throw std::invalid_argument(kUsage);
        }
    }
    return options;
}

/// Collects what failed, from any thread.
class Report {
  public:
    void check(const Case& one, Memory memory) {
        try {
            driver::check_case(one, memory);
        } catch (const std::exception& error) {
            const std::lock_guard lock(mutex_);
            ++failures_;
            std::printf("FAILED %s: %s\n", driver::doing(), error.what());
        }
        const std::lock_guard lock(mutex_);
        ++checks_;
    }

    int finish(size_t instruction_sets) const {
        std::printf("%ld checks on %zu instruction sets, %ld failed\n", checks_, instruction_sets, failures_);
        return failures_ == 0 ? 0 : 1;
    }

  private:
    std::mutex mutex_;
    long checks_ = 0, failures_ = 0;
};

void run(const std::vector<Case>& cases, const Options& options, Report& report) {
    const auto forward = [&] {
        for (const Case& one : cases) report.check(one, options.memory);
    };
    const auto backward = [&] {
        for (auto one = cases.rbegin(); one != cases.rend(); ++one) report.check(*one, options.memory);
    };
    if (options.callers == "one") {
        forward();
    } else if (options.callers == "two") {
        std::thread other(backward);
        forward();
        other.join();
    } else {
        gradsift::parallel_for(static_cast<int64_t>(cases.size()), 3,
                               [&](int64_t k) { report.check(cases[static_cast<size_t>(k)], options.memory); });
    }
}

// A fault says which call met it, then takes its course.
void on_fault(int signal) {
    for (const char* text : {"FAULT in ", driver::doing(), "\n"}) {
        if (write(STDERR_FILENO, text, std::strlen(text)) < 0) break;
    }
    std::signal(signal, SIG_DFL);
    raise(signal);
}

}  // namespace

int main(int count, char** words) {
    try {
        const Options options = parse(count, words);
        if (options.memory == Memory::kGuard) {
            std::signal(SIGSEGV, on_fault);
            std::signal(SIGBUS, on_fault);
        }
        std::printf("in force: %s\n", gradsift::isa_name(gradsift::active_isa()));
        const std::vector<Case> cases = driver::read_cases(options.cases);
        std::vector<std::string> names;
        for (const gradsift::Isa isa : gradsift::isas()) names.emplace_back(gradsift::isa_name(isa));
        if (!options.isa.empty()) names = {options.isa};
        driver::check_crc32c(options.memory);
        driver::check_store_kernels(options.memory);
        Report report;
        for (const std::string& name : names) {
            gradsift::set_isa(name);
            std::printf("%s\n", name.c_str());
            run(cases, options, report);
        }
        return report.finish(names.size());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
