// Chooses a level once, when the library is loaded, and forwards each call to it.
//
// This file is compiled without any instruction-set flag, so that it runs on every CPU.
#include <stddef.h>
#include <string.h>

#include "abi.h"
#include "kernel_table.h"
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

bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
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
    {&mixtral_kernels_avx512bf16, has_avx512bf16},
#endif
};
constexpr int kNumLevels = sizeof(kLevels) / sizeof(kLevels[0]);

const KernelTable* active = &mixtral_kernels_portable;
ParallelRegion parallel_region = NULL;

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

void mixtral_set_parallel(ParallelRegion parallel) { parallel_region = parallel; }

int mixtral_has_linear_bf16() { return active->linear_bf16 != NULL ? 1 : 0; }

int mixtral_linear_bf16(const uint16_t* x, const uint16_t* w, uint16_t* out, int64_t tokens,
                        int64_t rows, int64_t cols, int threads) {
    if (active->linear_bf16 == NULL) {
        return -1;
    }
    active->linear_bf16(x, w, out, tokens, rows, cols, threads, parallel_region);
    return 0;
}
