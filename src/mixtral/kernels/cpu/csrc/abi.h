// The C interface of libmixtral_cpu.so, as Python's ctypes sees it (../library.py).
//
// Only what is declared here is visible outside the library. A change that an older library.py
// could misread raises MIXTRAL_ABI_VERSION, here and there.
#pragma once

#include <stdint.h>

#include "model.h"
#include "training.h"

#define MIXTRAL_ABI_VERSION 7
#define MIXTRAL_API extern "C" __attribute__((visibility("default")))

MIXTRAL_API int mixtral_abi_version();

// Name of the level that is in use: "portable", "avx2", "avx512", "avx512vnni" or
// "avx512bf16".
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

// Threads of everything below, the caller included; they are started when they are first needed.
MIXTRAL_API void mixtral_set_threads(int threads);

// Packs a float32 weight [rows, cols] into a format (low_bit.h); `packed` has the right size.
MIXTRAL_API void mixtral_quantize(int format, const float* weight, int64_t rows, int64_t cols,
                                  uint8_t* packed);

// Decodes a packed weight (low_bit.h) into float32 out [rows, cols].
MIXTRAL_API void mixtral_dequantize(int format, const uint8_t* packed, int64_t rows, int64_t cols,
                                    float* out);

// A call with a workspace returns 0; or, where the workspace is too small for the threads set last,
// which another thread may just have changed, the size that it needs, and then it has done nothing.
// In bytes, unless it says floats. Calls from several threads wait for each other.

// out [tokens, rows] = x [tokens, cols] times a weight in any format. `exact` != 0: about 16 bits
// for x instead of 8.
MIXTRAL_API int64_t mixtral_linear(const float* x, int64_t tokens, const MixtralWeight* weight,
                                   int exact, float* out, uint8_t* workspace,
                                   int64_t workspace_bytes);

// The experts of one layer (moe.h).
MIXTRAL_API int64_t mixtral_moe(const MixtralMoe* call);

// One step of the whole model.
MIXTRAL_API int64_t mixtral_run_step(const MixtralModel* model, const MixtralBatch* batch);

// Bytes of MixtralAdapters.workspace for a step of this size.
MIXTRAL_API int64_t mixtral_adapter_workspace_bytes(const MixtralModel* model, int64_t tokens,
                                                    int64_t max_rank);

// Bytes of a KV cache of `slots` tokens, a multiple of 16. It must begin as zeros.
MIXTRAL_API int64_t mixtral_kv_cache_bytes(const MixtralModel* model, int64_t slots);

// Kernels of training (training.h); sizes of their workspaces are in floats.
MIXTRAL_API int64_t mixtral_packed_attention(const MixtralAttention* call, int is_backward);
MIXTRAL_API int64_t mixtral_head_loss(const MixtralHeadLoss* call);

// Probes of the machine: seconds for reading `bytes` with all threads, and for `steps` of int8
// products, whose operations are returned (0 where the level has none).
MIXTRAL_API double mixtral_read_probe(const uint8_t* memory, int64_t bytes);
MIXTRAL_API double mixtral_peak_probe(int64_t steps, double* operations);
