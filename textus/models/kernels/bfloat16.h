// What the kernels share: bfloat16 in memory, float in arithmetic.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define SIMD _Pragma("omp simd")
#define INLINE static inline __attribute__((always_inline))

constexpr int LANES = 16;    // floats in a 512-bit register
constexpr int64_t PART = 256;  // floats of a row worked on at once, so that `store_row` finds them in the nearest cache

using bf16 = uint16_t;

static inline float load(bf16 x) {
    uint32_t bits = uint32_t(x) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static inline bf16 store(float x) {  // round to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bf16 rounded = bf16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    return x != x ? bf16(0x7fc0) : rounded;  // rounding up would carry some NaNs over into zero
}

// A row of floats as bfloat16, by the processor's own instruction where it has one (the same rounding).
static inline void store_row(bf16* out, const float* in, int64_t count) {
    int64_t done = 0;
#ifdef __AVX512BF16__
    for (; done + 16 <= count; done += 16)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + done), __m256i(_mm512_cvtneps_pbh(_mm512_loadu_ps(in + done))));
#endif
    SIMD for (int64_t d = done; d < count; ++d) out[d] = store(in[d]);
}

// e^x to about two units in the last place: range reduction by ln 2, then a polynomial of degree 6.
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = __builtin_rintf(x * 1.44269504088896341f);
    float r = x - n * 0.693359375f - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return p * scale;
}

#ifdef __AVX512BF16__
INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);  // in this order a NaN stays one
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(8.3334519073e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}
#endif

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// In place: values (count, with capacity for LANES more) -> softmax. Whole blocks of LANES, the last one filled up with the least float:
// at a few dozen values a row, a loop's left-over ones would cost as much as the rest.
INLINE void softmax(float* values, int64_t count) {
    int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t s = count; s < padded; ++s) values[s] = -3.0e38f;
    float tops[LANES], sums[LANES] = {}, top = -3.0e38f, sum = 0.0f;
    for (int i = 0; i < LANES; ++i) tops[i] = -3.0e38f;
    for (int64_t s = 0; s < padded; s += LANES)
        SIMD for (int i = 0; i < LANES; ++i) tops[i] = values[s + i] > tops[i] ? values[s + i] : tops[i];
    for (int i = 0; i < LANES; ++i) top = tops[i] > top ? tops[i] : top;
    for (int64_t s = 0; s < padded; s += LANES)
        SIMD for (int i = 0; i < LANES; ++i) {
            values[s + i] = exponential(values[s + i] - top);
            sums[i] += values[s + i];
        }
    for (int i = 0; i < LANES; ++i) sum += sums[i];
    float scale = 1.0f / sum;
    for (int64_t s = 0; s < padded; s += LANES)
        SIMD for (int i = 0; i < LANES; ++i) values[s + i] *= scale;
}
