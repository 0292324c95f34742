// Tasks shared with torch's threads, as long as that pays.
//
// A parallel region ends when all of its threads have come, those too that another process has pushed off their core: a
// scheduler's time slice or several (8 to 30 ms seen) for a step of 0.05 ms. What the caller did itself tells how long it
// would have taken alone. Where the team took longer, the caller works alone for a while, and for twice as long whenever
// trying again was no better.

#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

// GOMP_parallel of torch's OpenMP.
using RunParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

class Team {
public:
    // Call task(n) for 0 <= n < count, on as many threads, or on this one.
    template <class F>
    static void share(RunParallel run_parallel, int64_t threads, int64_t count, F task) {
        const int64_t size = std::min(threads, count);
        if (!run_parallel || size < 2 || now() < alone_until.load(std::memory_order_relaxed)) {
            for (int64_t n = 0; n < count; n++) task(n);
            return;
        }
        static thread_local char here;
        Work<F> work{task, count, &here};
        const int64_t start = now();
        run_parallel(
            [](void* given) {
                Work<F>& work = *static_cast<Work<F>*>(given);
                const int64_t begun = now();
                int64_t done = 0;
                for (int64_t n; (n = work.next++) < work.count; done++) work.task(n);
                if (work.caller == &here) work.done = done, work.took = now() - begun;
            },
            &work, unsigned(size), 0);
        if (work.done) judge(now(), now() - start - work.took * count / work.done);
    }

    // As before the first region: for tests, whose numbers of threads must not depend on the machine's load.
    static void forget() { alone_until = 0, pause = FIRST_PAUSE; }

private:
    static constexpr int64_t LOSS = 100'000;  // ns; less is noise
    static constexpr int64_t FIRST_PAUSE = 20'000'000, LONGEST_PAUSE = 2'000'000'000;
    static inline std::atomic<int64_t> alone_until{0}, pause{FIRST_PAUSE};

    template <class F>
    struct Work {
        F& task;
        const int64_t count;
        const char* const caller;
        std::atomic<int64_t> next{0};
        int64_t done = 0, took = 0;  // the caller's tasks, and ns that they took
    };

    static int64_t now() {
        using namespace std::chrono;
        return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
    }

    static void judge(int64_t end, int64_t lost) {
        if (lost < LOSS) {
            if (lost < 0) pause.store(FIRST_PAUSE, std::memory_order_relaxed);
            return;
        }
        const int64_t length = pause.load(std::memory_order_relaxed);
        alone_until.store(end + length, std::memory_order_relaxed);
        pause.store(std::min(2 * length, LONGEST_PAUSE), std::memory_order_relaxed);
    }
};
