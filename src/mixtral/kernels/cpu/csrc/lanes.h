// Sixteen float32 lanes in one, two or four registers, with the operations that the step needs.
//
// GCC's vector types, so that the code is written once; only the fused multiply-add needs the
// intrinsic of its level. Every lane is a chain of its own: the bits of a result do not depend on
// how many registers hold the lanes.
#pragma once

#include <stdint.h>
#include <string.h>

#include "rms_norm.h"  // kWidth
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

typedef Register Floats;
typedef int32_t Ints __attribute__((vector_size(kWidth * sizeof(int32_t))));

inline Floats load_floats(const float* p) {
    Floats value;
    memcpy(&value, p, sizeof(value));
    return value;
}

inline void store_floats(float* p, Floats value) { memcpy(p, &value, sizeof(value)); }

inline Ints load_ints(const void* p) {
    Ints value;
    memcpy(&value, p, sizeof(value));
    return value;
}

inline Floats all(float value) { return value - Floats{}; }

inline Floats as_floats(Ints value) { return reinterpret_cast<Floats>(value); }
inline Ints as_ints(Floats value) { return reinterpret_cast<Ints>(value); }

// a * b + c
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return reinterpret_cast<Floats>(_mm512_fmadd_ps(
        reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__)
    return reinterpret_cast<Floats>(_mm256_fmadd_ps(
        reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
    return a * b + c;
#endif
}

// A NaN in `b` gets through, one in `a` does not.
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// Two bfloat16 lie in each dword: the first in the low half.
inline Floats first_of_pair(Ints pairs) { return as_floats(pairs << 16); }
inline Floats second_of_pair(Ints pairs) {
    return as_floats(pairs & static_cast<int32_t>(0xffff0000u));
}

// e^x to 2 units in the last place for x <= 88; 0 below -87; NaN of a NaN. Cephes' polynomial on
// |r| <= ln 2 / 2.
inline Floats exponential(Floats x) {
    const Ints is_tiny = x < -87.0f;
    x = larger(all(-87.0f), x);
    const Floats shifted = multiply_add(x, all(1.44269504f), all(12582912.0f));  // 1.5 * 2^23
    const Floats n = shifted - 12582912.0f;
    Floats r = multiply_add(n, all(-0.693359375f), x);
    r = multiply_add(n, all(2.12194440e-4f), r);
    Floats p = all(1.9875691500e-4f);
    p = multiply_add(p, r, all(1.3981999507e-3f));
    p = multiply_add(p, r, all(8.3334519073e-3f));
    p = multiply_add(p, r, all(4.1665795894e-2f));
    p = multiply_add(p, r, all(1.6666665459e-1f));
    p = multiply_add(p, r, all(5.0000001201e-1f));
    p = multiply_add(p, r * r, r + 1.0f);
    const Ints power = (as_ints(shifted) + 127) << 23;  // 2^n: n in the low bits of `shifted`
    return as_floats(as_ints(p * as_floats(power)) & ~is_tiny);
}

inline float largest_lane(Floats value) {
    float lanes[kWidth];
    store_floats(lanes, value);
    float largest = lanes[0];
    for (int i = 1; i < kWidth; ++i) {
        largest = lanes[i] > largest ? lanes[i] : largest;
    }
    return largest;
}

// Sum of 16 values in a fixed tree.
inline float tree_sum(const float* values) {
    float lanes[kLanes];
    memcpy(lanes, values, sizeof(lanes));
    for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) {
            lanes[i] += lanes[i + half];
        }
    }
    return lanes[0];
}

// Dot product with one order of additions for every level of the same fused multiply-add.
inline float dot_product(const float* a, const float* b, int64_t count) {
    Floats sums[kRegisters] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int r = 0; r < kRegisters; ++r) {
            sums[r] = multiply_add(load_floats(a + i + r * kWidth), load_floats(b + i + r * kWidth),
                                   sums[r]);
        }
    }
    float lanes[kLanes];
    memcpy(lanes, sums, sizeof(lanes));
    for (int64_t rest = 0; i + rest < count; ++rest) {
        lanes[rest] += a[i + rest] * b[i + rest];
    }
    return tree_sum(lanes);
}

}  // namespace
