// Chooses a level once, when the library is loaded, and forwards each call to it.
//
// This file is compiled without any instruction-set flag, so that it runs on every CPU.
#include <stddef.h>
#include <string.h>

#include "abi.h"
#include "kernel_table.h"
#include "low_bit.h"
#include "pool.h"
#include "quantize.h"
#ifdef MIXTRAL_X86
#include <cpuid.h>
#endif

namespace {

bool always_usable() { return true; }

#ifdef MIXTRAL_X86
// Clang before 18 does not know "f16c" in __builtin_cpu_supports.
bool has_f16c() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512vnni() {
    return has_avx512() && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vbmi");
}

bool has_avx512bf16() { return has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif

struct Level {
    const KernelTable* table;
    bool (*is_usable)();
};

const Level kLevels[] = {
    {&mixtral_kernels_portable, always_usable},
#ifdef MIXTRAL_X86
    {&mixtral_kernels_avx2, has_avx2},
    {&mixtral_kernels_avx512, has_avx512},
    {&mixtral_kernels_avx512vnni, has_avx512vnni},
    {&mixtral_kernels_avx512bf16, has_avx512bf16},
#endif
};
constexpr int kNumLevels = sizeof(kLevels) / sizeof(kLevels[0]);

const KernelTable* active = &mixtral_kernels_portable;

__attribute__((constructor)) void choose_best_level() {
#ifdef MIXTRAL_X86
    __builtin_cpu_init();
#endif
    for (const Level& level : kLevels) {
        if (level.is_usable()) {
            active = level.table;
        }
    }
}

}  // namespace

int mixtral_abi_version() { return MIXTRAL_ABI_VERSION; }

const char* mixtral_cpu_level() { return active->level; }

const char* mixtral_cpu_level_name(int index) {
    return index >= 0 && index < kNumLevels ? kLevels[index].table->level : NULL;
}

int mixtral_cpu_level_usable(int index) {
    return index >= 0 && index < kNumLevels && kLevels[index].is_usable() ? 1 : 0;
}

int mixtral_cpu_force_level(const char* name) {
    for (const Level& level : kLevels) {
        if (strcmp(level.table->level, name) == 0 && level.is_usable()) {
            active = level.table;
            return 0;
        }
    }
    return -1;
}

void mixtral_rms_norm_f32(const float* x, const float* weight, float* out, int64_t rows,
                          int64_t cols, float eps) {
    active->rms_norm_f32(x, weight, out, rows, cols, eps);
}

void mixtral_set_threads(int threads) {
    pool_lock();
    pool_set_threads(threads);
    pool_unlock();
}

void mixtral_quantize(int format, const float* weight, int64_t rows, int64_t cols,
                      uint8_t* packed) {
    pool_lock();
    parallel_for(divide_up(rows, kPanel), 1, [&](int64_t first, int64_t last, int) {
        quantize_panels(format, weight, rows, cols, packed, first, last);
    });
    pool_unlock();
}

void mixtral_dequantize(int format, const uint8_t* packed, int64_t rows, int64_t cols,
                        float* out) {
    pool_lock();
    parallel_for(divide_up(rows, kPanel), 1, [&](int64_t first, int64_t last, int) {
        active->dequantize_panels(format, packed, rows, cols, out, first, last);
    });
    pool_unlock();
}

int64_t mixtral_linear(const float* x, int64_t tokens, const MixtralWeight* weight, int exact,
                       float* out, uint8_t* workspace, int64_t workspace_bytes) {
    pool_lock();
    const int64_t needed =
        active->linear(x, tokens, *weight, exact != 0, out, workspace, workspace_bytes);
    pool_unlock();
    return needed;
}

int64_t mixtral_moe(const MixtralMoe* call) {
    pool_lock();
    const int64_t needed = active->moe(*call);
    pool_unlock();
    return needed;
}

int64_t mixtral_run_step(const MixtralModel* model, const MixtralBatch* batch) {
    pool_lock();
    const int64_t needed = active->run_step(*model, *batch);
    pool_unlock();
    return needed;
}

int64_t mixtral_adapter_workspace_bytes(const MixtralModel* model, int64_t tokens,
                                        int64_t max_rank) {
    return active->adapter_workspace_bytes(*model, tokens, max_rank);
}

int64_t mixtral_kv_cache_bytes(const MixtralModel* model, int64_t slots) {
    return active->kv_cache_bytes(*model, slots);
}

int64_t mixtral_packed_attention(const MixtralAttention* call, int is_backward) {
    pool_lock();
    const int64_t needed = active->packed_attention(*call, is_backward != 0);
    pool_unlock();
    return needed;
}

int64_t mixtral_head_loss(const MixtralHeadLoss* call) {
    pool_lock();
    const int64_t needed = active->head_loss(*call);
    pool_unlock();
    return needed;
}

double mixtral_read_probe(const uint8_t* memory, int64_t bytes) {
    pool_lock();
    const double seconds = active->read_probe(memory, bytes);
    pool_unlock();
    return seconds;
}

double mixtral_peak_probe(int64_t steps, double* operations) {
    pool_lock();
    const double seconds = active->peak_probe(steps, operations);
    pool_unlock();
    return seconds;
}
