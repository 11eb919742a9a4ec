// The C interface of libmixtral_cpu.so, as Python's ctypes sees it (../library.py).
//
// Only what is declared here is visible outside the library. A change that an older library.py
// could misread raises MIXTRAL_ABI_VERSION, here and there.
#pragma once

#include <stdint.h>

#define MIXTRAL_ABI_VERSION 2
#define MIXTRAL_API extern "C" __attribute__((visibility("default")))

MIXTRAL_API int mixtral_abi_version();

// Name of the level that is in use: "portable", "avx2", "avx512" or "avx512bf16".
MIXTRAL_API const char* mixtral_cpu_level();

// Name of the level at `index`, slowest first, or null past the last one that this build has.
MIXTRAL_API const char* mixtral_cpu_level_name(int index);

// 1 where this CPU can run the level at `index`, else 0.
MIXTRAL_API int mixtral_cpu_level_usable(int index);

// Use the level `name` from now on. Returns 0, or -1 where the build or the CPU lacks it; then
// nothing changes. Not meant to be called while a kernel runs.
MIXTRAL_API int mixtral_cpu_force_level(const char* name);

// out[r, c] = weight[c] * x[r, c] / sqrt(mean over c of x[r, c]^2 + eps); row-major, contiguous.
// `out` may be `x` itself.
MIXTRAL_API void mixtral_rms_norm_f32(const float* x, const float* weight, float* out, int64_t rows,
                                      int64_t cols, float eps);

// The function that runs work on several threads, GOMP_parallel of the OpenMP runtime that torch has
// loaded: one pool for both, since two would fight for the cores. Null, as at first: one thread.
MIXTRAL_API void mixtral_set_parallel(void (*parallel)(void (*work)(void*), void* data,
                                                       unsigned threads, unsigned flags));

// 1 where the level in use has mixtral_linear_bf16, else 0.
MIXTRAL_API int mixtral_has_linear_bf16();

// out[t, r] = sum over c of x[t, c] * w[r, c]; bfloat16, row-major, contiguous; float32 sums. A
// token's outputs do not depend on the other tokens. Returns 0, or -1 where the level lacks it.
MIXTRAL_API int mixtral_linear_bf16(const uint16_t* x, const uint16_t* w, uint16_t* out,
                                    int64_t tokens, int64_t rows, int64_t cols, int threads);
