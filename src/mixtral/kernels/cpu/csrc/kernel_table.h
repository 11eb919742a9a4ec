// One table of function pointers per instruction-set level; dispatch.cpp picks one.
#pragma once

#include <stdint.h>

struct KernelTable {
    const char* level;
    void (*rms_norm_f32)(const float* x, const float* weight, float* out, int64_t rows,
                         int64_t cols, float eps);
};

extern const KernelTable mixtral_kernels_portable;
#ifdef MIXTRAL_X86
extern const KernelTable mixtral_kernels_avx2;
extern const KernelTable mixtral_kernels_avx512;
#endif
