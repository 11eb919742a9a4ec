// What the machine can do at best, which kernels are compared with: bytes read from memory and int8
// operations, per second.
//
// Reading: every thread takes 1 MB at a time and looks at every byte of it. Multiplying: 24
// independent sums in registers and nothing else; in assembly, because GCC 12 spills so many.
#pragma once

#include <stdint.h>
#include <string.h>
#include <time.h>

#include "lanes.h"
#include "pool.h"

namespace {

inline double seconds_now() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Seconds for reading `bytes`, cut to whole megabytes.
double read_probe(const uint8_t* memory, int64_t bytes) {
    constexpr int64_t kPiece = 1 << 20;
    const double begin = seconds_now();
    parallel_for(bytes / kPiece, 1, [&](int64_t first, int64_t last, int) {
        Ints seen[4] = {};
        for (const uint8_t* p = memory + first * kPiece; p < memory + last * kPiece;
             p += 4 * sizeof(Ints)) {
            for (int64_t i = 0; i < 4; ++i) {
                seen[i] |= load_ints(p + i * static_cast<int64_t>(sizeof(Ints)));
            }
        }
        volatile int32_t sink = (seen[0] | seen[1] | seen[2] | seen[3])[0];
        (void)sink;
    });
    return seconds_now() - begin;
}

#if defined(__AVX512VNNI__)
constexpr double kOperationsPerStep = 24.0 * 64 * 2;

inline void multiply_steps(int64_t steps) {
    __asm__ volatile(
        "1:\n"
        ".irp r,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
        "vpdpbusd %%zmm0, %%zmm1, %%zmm\\r\n"
        ".endr\n"
        "dec %0\n"
        "jnz 1b\n"
        : "+r"(steps)
        :
        : "cc", "xmm0", "xmm1", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
          "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
          "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
}
#elif defined(__AVX2__)
constexpr double kOperationsPerStep = 8.0 * 16 * 2;  // a multiply-add pair and its addition

inline void multiply_steps(int64_t steps) {
    __asm__ volatile(
        "1:\n"
        ".irp r,8,9,10,11,12,13,14,15\n"
        "vpmaddwd %%ymm0, %%ymm1, %%ymm2\n"
        "vpaddd %%ymm2, %%ymm\\r, %%ymm\\r\n"
        ".endr\n"
        "dec %0\n"
        "jnz 1b\n"
        : "+r"(steps)
        :
        : "cc", "xmm0", "xmm1", "xmm2", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
          "xmm14", "xmm15");
}
#else
constexpr double kOperationsPerStep = 0.0;

inline void multiply_steps(int64_t) {}
#endif

// Seconds for `steps` on every thread; `operations` are those of all threads, 0 where the level has
// no instruction to measure.
double peak_probe(int64_t steps, double* operations) {
    const int threads = pool_threads();
    *operations = kOperationsPerStep * static_cast<double>(steps) * threads;
    const double begin = seconds_now();
    parallel_for(threads, 1, [&](int64_t first, int64_t last, int) {
        for (int64_t i = first; i < last; ++i) {
            multiply_steps(steps);
        }
    });
    return seconds_now() - begin;
}

}  // namespace
