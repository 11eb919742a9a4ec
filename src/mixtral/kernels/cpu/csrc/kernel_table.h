// One table of function pointers per instruction-set level; dispatch.cpp picks one.
#pragma once

#include <stdint.h>

// Runs work(data) on `threads` threads and returns when all are done: libgomp's GOMP_parallel.
typedef void (*ParallelRegion)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

struct KernelTable {
    const char* level;
    void (*rms_norm_f32)(const float* x, const float* weight, float* out, int64_t rows,
                         int64_t cols, float eps);
    // Null where the level has no instruction for it.
    void (*linear_bf16)(const uint16_t* x, const uint16_t* w, uint16_t* out, int64_t tokens,
                        int64_t rows, int64_t cols, int threads, ParallelRegion parallel);
};

extern const KernelTable mixtral_kernels_portable;
#ifdef MIXTRAL_X86
extern const KernelTable mixtral_kernels_avx2;
extern const KernelTable mixtral_kernels_avx512;
extern const KernelTable mixtral_kernels_avx512bf16;
#endif
