#include "common/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace gradsift {
namespace {

struct Job {
    Job(int64_t total, const std::function<void(int64_t)>& function) : count(total), body(function) {}

    const int64_t count;
    const std::function<void(int64_t)>& body;
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::exception_ptr error;

    void work() {
        try {
            for (int64_t index; (index = next.fetch_add(1)) < count;) body(index);
        } catch (...) {
            next = count;
            const std::lock_guard lock(mutex);
            if (!error) error = std::current_exception();
        }
    }
};

class Pool {
  public:
    /// Held by the one caller whose job the helpers serve.
    std::mutex busy;

    void run(Job& job, int helpers) {
        {
            const std::lock_guard lock(mutex_);
            grow(helpers);
            job_ = &job;
            wanted_ = helpers;
            ++generation_;
        }
        wake_.notify_all();
        job.work();
        std::unique_lock lock(mutex_);
        job_ = nullptr;  // a helper that wakes from here on finds nothing; only those inside are waited for
        done_.wait(lock, [&] { return inside_ == 0; });
    }

  private:
    void grow(int helpers) {
        try {
            for (; size_ < helpers; ++size_) {
                std::thread([this, id = size_, seen = generation_] { serve(id, seen); }).detach();
            }
        } catch (const std::system_error&) {
            // The system gives no more threads. Fewer helpers take longer and compute the same.
        }
    }

    void serve(int id, uint64_t seen) {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return generation_ != seen; });
            seen = generation_;
            if (id >= wanted_ || job_ == nullptr) continue;
            Job& job = *job_;
            ++inside_;
            lock.unlock();
            job.work();
            lock.lock();
            if (--inside_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Job* job_ = nullptr;
    int size_ = 0, wanted_ = 0, inside_ = 0;
    uint64_t generation_ = 0;
};

Pool* g_pool = nullptr;
std::once_flag g_once;
thread_local bool t_inside = false;

Pool& pool() {
    std::call_once(g_once, [] {
        g_pool = new Pool;
        // The helpers do not exist in a forked child and a lock may be held there by one of them, so the parent's
        // pool is left behind unused.
        pthread_atfork(nullptr, nullptr, [] { g_pool = new Pool; });
    });
    return *g_pool;
}

}  // namespace

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body) {
    const int helpers = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
    Job job(count, body);
    bool shared = false;
    if (helpers > 0 && !t_inside) {
        Pool& helpers_pool = pool();
        // A second thread that calls meanwhile works alone instead of waiting.
        if (const std::unique_lock lock(helpers_pool.busy, std::try_to_lock); lock.owns_lock()) {
            shared = true;
            t_inside = true;
            helpers_pool.run(job, helpers);
            t_inside = false;
        }
    }
    if (!shared) job.work();
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace gradsift
