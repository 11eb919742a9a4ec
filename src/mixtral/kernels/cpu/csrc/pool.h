// Threads for the kernels: one region at a time, cut into jobs that threads take one by one.
//
// The caller works too. A region ends when its jobs are taken and done, not when every thread has
// come by: a worker that wakes late, because a neighbour had its core, finds the region closed and
// nobody has waited for it. Workers spin for a short while after a region, so that the next one of
// the same step starts in less than a microsecond, and then sleep.
#pragma once

#include <stdint.h>

// Does jobs `first` to `last` - 1 of a region on thread `thread`, 0 to pool_threads() - 1.
typedef void (*RegionJob)(void* data, int64_t first, int64_t last, int thread);

// Runs `num_jobs` jobs on the pool, `grain` at a time; returns when all are done. Fewer than two
// grains run on the calling thread at once. Not reentrant: a job must not start a region.
void pool_run(RegionJob job, void* data, int64_t num_jobs, int64_t grain);

// Threads of later regions, the caller included; at least 1. Starts none before they are needed.
// Both only with the lock held, so that the number stays the same through a call.
void pool_set_threads(int threads);
int pool_threads();

// One step of the model at a time: calls from several Python threads wait here for their turn.
void pool_lock();
void pool_unlock();

namespace {

// As a function object: parallel_for(n, grain, [&](int64_t first, int64_t last) { ... }).
template <typename Body>
inline void parallel_for(int64_t num_jobs, int64_t grain, const Body& body) {
    pool_run(
        [](void* data, int64_t first, int64_t last, int thread) {
            (*static_cast<const Body*>(data))(first, last, thread);
        },
        const_cast<Body*>(&body), num_jobs, grain);
}

}  // namespace
