// See pool.h. Compiled once, for every level.
//
// A region's number and its state share one 64-bit word: (number << 32) | open bit | entered count.
// A worker enters by adding 1 to the count while the open bit is there; the caller takes the open
// bit away when no job is left and then waits for the count to fall to 0. So a worker is either
// inside before the region closes, and waited for, or it never touches the region's data.
#include "pool.h"

#include <pthread.h>
#include <stddef.h>
#include <time.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int kMaxThreads = 256;
constexpr uint64_t kOpen = uint64_t{1} << 31;
constexpr uint64_t kCount = kOpen - 1;
// A step starts its next region within microseconds and the next step within about a millisecond;
// longer spinning would only take the core from others.
constexpr int64_t kSpinNanoseconds = 1500000;

struct Region {
    RegionJob job;
    void* data;
    int64_t num_jobs;
    int64_t grain;
    uint32_t threads;  // that may take part, the caller included
};

struct Pool {
    alignas(64) uint64_t state;       // number of the region, open bit, workers inside
    alignas(64) int64_t next_job;     // first job that nobody has taken
    alignas(64) uint32_t doorbell;    // counts regions; sleepers wait for it to change
    alignas(64) int32_t sleepers;
    Region region;
    uint32_t wanted;   // threads of a region, the caller included; workers above it wait for a change
    uint32_t started;  // workers that exist
    pthread_mutex_t lock;
};

Pool pool = {0, 0, 0, 0, {NULL, NULL, 0, 1, 1}, 1, 0, PTHREAD_MUTEX_INITIALIZER};

inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

int64_t now_nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

#ifdef __linux__
void sleep_while(uint32_t* word, uint32_t seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

void wake_all(uint32_t* word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, kMaxThreads, NULL, NULL, 0);
}
#else
pthread_mutex_t bell_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t bell = PTHREAD_COND_INITIALIZER;

void sleep_while(uint32_t* word, uint32_t seen) {
    pthread_mutex_lock(&bell_lock);
    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == seen) {
        pthread_cond_wait(&bell, &bell_lock);
    }
    pthread_mutex_unlock(&bell_lock);
}

void wake_all(uint32_t*) {
    pthread_mutex_lock(&bell_lock);
    pthread_cond_broadcast(&bell);
    pthread_mutex_unlock(&bell_lock);
}
#endif

// Waits for a region after number `seen`, first spinning, then asleep.
uint32_t wait_for_region(uint32_t seen) {
    int64_t deadline = 0;
    for (uint32_t turn = 0;; ++turn) {
        const uint32_t bell_now = __atomic_load_n(&pool.doorbell, __ATOMIC_ACQUIRE);
        if (bell_now != seen) {
            return bell_now;
        }
        pause_cpu();
        if (turn % 64 != 0) {
            continue;
        }
        const int64_t now = now_nanoseconds();
        if (deadline == 0) {
            deadline = now + kSpinNanoseconds;
        } else if (now > deadline) {
            __atomic_fetch_add(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
            sleep_while(&pool.doorbell, seen);
            __atomic_fetch_sub(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
            deadline = 0;
        }
    }
}

void do_jobs(const Region& region, int thread) {
    for (;;) {
        const int64_t first = __atomic_fetch_add(&pool.next_job, region.grain, __ATOMIC_RELAXED);
        if (first >= region.num_jobs) {
            return;
        }
        const int64_t last = first + region.grain;
        region.job(region.data, first, last < region.num_jobs ? last : region.num_jobs,
                   thread);
    }
}

bool enter_region() {
    uint64_t state = __atomic_load_n(&pool.state, __ATOMIC_ACQUIRE);
    while (state & kOpen) {
        if (__atomic_compare_exchange_n(&pool.state, &state, state + 1, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

void* worker_main(void* argument) {
    const uint32_t index = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(argument));
    uint32_t seen = __atomic_load_n(&pool.doorbell, __ATOMIC_ACQUIRE);
    for (;;) {
        const uint32_t wanted = __atomic_load_n(&pool.wanted, __ATOMIC_RELAXED);
        if (index >= wanted) {
            sleep_while(&pool.wanted, wanted);
            continue;
        }
        if (enter_region()) {
            // The number may have shrunk meanwhile: this region has no workspace for us then.
            if (index < pool.region.threads) {
                do_jobs(pool.region, static_cast<int>(index));
            }
            __atomic_fetch_sub(&pool.state, 1, __ATOMIC_ACQ_REL);
        }
        seen = wait_for_region(seen);
    }
    return NULL;
}

// The child of a fork has only the thread that forked: the workers are started anew, and nobody is
// left to give back the lock.
void forget_workers() {
    pool.state = 0;
    pool.sleepers = 0;
    pool.started = 0;
    pthread_mutex_init(&pool.lock, NULL);
}

__attribute__((constructor)) void expect_forks() { pthread_atfork(NULL, NULL, forget_workers); }

void start_workers() {
    while (pool.started < pool.wanted - 1) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const uintptr_t index = pool.started + 1;
        const int failed = pthread_create(&thread, &attributes, worker_main,
                                          reinterpret_cast<void*>(index));
        pthread_attr_destroy(&attributes);
        if (failed) {
            return;  // fewer threads do the same jobs
        }
        ++pool.started;
    }
}

}  // namespace

void pool_set_threads(int threads) {
    threads = threads < 1 ? 1 : threads > kMaxThreads ? kMaxThreads : threads;
    const uint32_t wanted = static_cast<uint32_t>(threads);
    if (wanted != pool.wanted) {
        __atomic_store_n(&pool.wanted, wanted, __ATOMIC_SEQ_CST);
        wake_all(&pool.wanted);
    }
}

int pool_threads() { return static_cast<int>(pool.wanted); }

void pool_lock() { pthread_mutex_lock(&pool.lock); }

void pool_unlock() { pthread_mutex_unlock(&pool.lock); }

void pool_run(RegionJob job, void* data, int64_t num_jobs, int64_t grain) {
    if (pool.wanted < 2 || num_jobs <= grain) {
        if (num_jobs > 0) {
            job(data, 0, num_jobs, 0);
        }
        return;
    }
    if (pool.started < pool.wanted - 1) {
        start_workers();
    }
    pool.region = {job, data, num_jobs, grain, pool.wanted};
    __atomic_store_n(&pool.next_job, 0, __ATOMIC_RELAXED);
    const uint64_t number = (pool.state >> 32) + 1;
    __atomic_store_n(&pool.state, (number << 32) | kOpen, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&pool.doorbell, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool.sleepers, __ATOMIC_SEQ_CST) > 0) {
        wake_all(&pool.doorbell);
    }
    do_jobs(pool.region, 0);
    __atomic_fetch_and(&pool.state, ~kOpen, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&pool.state, __ATOMIC_ACQUIRE) & kCount) {
        pause_cpu();
    }
}
