// One table of function pointers per instruction-set level; dispatch.cpp picks one.
#pragma once

#include <stdint.h>

#include "model.h"
#include "training.h"

struct KernelTable {
    const char* level;
    void (*rms_norm_f32)(const float* x, const float* weight, float* out, int64_t rows,
                         int64_t cols, float eps);
    void (*dequantize_panels)(int bits, const uint8_t* packed, int64_t rows, int64_t cols, float* out,
                              int64_t first, int64_t last);
    int64_t (*linear)(const float* x, int64_t tokens, const MixtralWeight& w, bool exact, float* out,
                      uint8_t* workspace, int64_t workspace_bytes);
    int64_t (*moe)(const MixtralMoe& call);
    int64_t (*run_step)(const MixtralModel& model, const MixtralBatch& batch);
    int64_t (*adapter_workspace_bytes)(const MixtralModel& model, int64_t tokens, int64_t max_rank);
    int64_t (*kv_cache_bytes)(const MixtralModel& model, int64_t slots);
    int64_t (*packed_attention)(const MixtralAttention& call, bool is_backward);
    int64_t (*head_loss)(const MixtralHeadLoss& call);
    double (*read_probe)(const uint8_t* memory, int64_t bytes);
    double (*peak_probe)(int64_t steps, double* operations);
};

extern const KernelTable mixtral_kernels_portable;
#ifdef MIXTRAL_X86
extern const KernelTable mixtral_kernels_avx2;
extern const KernelTable mixtral_kernels_avx512;
extern const KernelTable mixtral_kernels_avx512vnni;
extern const KernelTable mixtral_kernels_avx512bf16;
#endif
