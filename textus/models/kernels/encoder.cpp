// The element-wise half of an encoder block's training step on CPUs, on rows of texts one after the other, without padding.
//
// Matrix products stay with torch (oneDNN). Storage is bfloat16, arithmetic float; one thread a call and a fixed order of
// additions. Shapes: N positions of all texts, B texts, T positions of the longest, D width, H heads, K head width.
// `starts` (B + 1): where each text's positions begin among the N, and their end.

#include "bfloat16.h"

// Which values a dropout keeps: as `textus_dropout` in kernels.cpp.
struct Dropout {
    uint32_t threshold, start;
    float scale;
    Dropout(float p, int64_t seed) : threshold(uint32_t(double(p) * 4294967296.0)), start(uint32_t(seed)), scale(1.0f / (1.0f - p)) {}
    float factor(uint32_t place) const {
        uint32_t hash = place * 0x9e3779b9u + start;
        hash = (hash ^ (hash >> 16)) * 0x85ebca6bu;
        hash = (hash ^ (hash >> 13)) * 0xc2b2ae35u;
        hash ^= hash >> 16;
        return hash >= threshold ? scale : 0.0f;
    }
};

// The normal distribution's density and its integral up to x (Abramowitz and Stegun 7.1.26: within 1.5e-7).
INLINE void normal(float x, float& density, float& below) {
    float size = x < 0.0f ? -x : x, t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * size);
    float power = exponential(-0.5f * x * x);
    float tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f)))) * power;
    density = 0.39894228f * power;
    below = x < 0.0f ? 0.5f * tail : 1.0f - 0.5f * tail;
}

constexpr int64_t WIDE = 8192;  // the widest row

#ifdef __AVX512BF16__
INLINE __mmask16 lanes_before(int64_t n) { return __mmask16(n <= 0 ? 0 : n >= LANES ? 0xffff : (1 << n) - 1); }

// In place: a short row (time, at most 16 BLOCKS) times `factor` -> softmax of its first `length` values, zero elsewhere. The
// whole row stays in registers.
template <int BLOCKS>
INLINE void short_row(bf16* row, int64_t length, int64_t time, __m512 factor) {
    __m512 values[BLOCKS], top = _mm512_set1_ps(-3.0e38f), sum = _mm512_setzero_ps();
    for (int i = 0; i < BLOCKS; ++i) {
        __mmask16 real = lanes_before(length - i * LANES);
        __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(real, row + i * LANES)), 16);
        values[i] = _mm512_mask_mul_ps(_mm512_set1_ps(-3.0e38f), real, _mm512_castsi512_ps(wide), factor);
        top = _mm512_max_ps(top, values[i]);
    }
    __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    for (int i = 0; i < BLOCKS; ++i) {
        values[i] = exponential(_mm512_sub_ps(values[i], most));
        sum = _mm512_add_ps(sum, values[i]);
    }
    __m512 scale = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int i = 0; i < BLOCKS; ++i) {
        __m256i out = __m256i(_mm512_cvtneps_pbh(_mm512_mul_ps(values[i], scale)));
        _mm256_mask_storeu_epi16(row + i * LANES, lanes_before(time - i * LANES), out);
    }
}

template <int BLOCKS>
INLINE bool short_rows(bf16* rows, int64_t length, int64_t time, float factor) {
    if (time > BLOCKS * LANES) return false;
    for (int64_t t = 0; t < length; ++t) short_row<BLOCKS>(rows + t * time, length, time, _mm512_set1_ps(factor));
    return true;
}
#endif

// The softmax of a text's rows (length, time), in place; see `textus_text_softmax`.
INLINE void softmax_rows(bf16* rows, int64_t length, int64_t time, float factor) {
#ifdef __AVX512BF16__
    if (short_rows<1>(rows, length, time, factor) || short_rows<2>(rows, length, time, factor) ||
        short_rows<4>(rows, length, time, factor) || short_rows<8>(rows, length, time, factor)) return;
#endif
    float values[WIDE + LANES];
    for (bf16* row = rows; row < rows + length * time; row += time) {
        SIMD for (int64_t s = 0; s < length; ++s) values[s] = load(row[s]) * factor;
        softmax(values, length);
        store_row(row, values, length);
        std::memset(row + length, 0, size_t(time - length) * sizeof(bf16));
    }
}

extern "C" {

// sum = x + dropout(delta); out = (sum - mean) / deviation * weight + bias. moments (N, 2): mean, 1 / deviation.
void textus_add_layer_norm(const bf16* x, const bf16* delta, const float* weight, const float* bias, bf16* sum, bf16* out,
                           float* moments, int64_t rows, int64_t width, float eps, float p, int64_t seed) {
    Dropout dropout(p, seed);
    float values[WIDE];
    for (int64_t n = 0; n < rows; ++n) {
        const bf16 *row = x + n * width, *add = delta + n * width;
        if (p > 0.0f) {
            uint32_t at = uint32_t(n * width);
            SIMD for (int64_t d = 0; d < width; ++d) values[d] = load(row[d]) + load(add[d]) * dropout.factor(at + uint32_t(d));
        } else {
            SIMD for (int64_t d = 0; d < width; ++d) values[d] = load(row[d]) + load(add[d]);
        }
        store_row(sum + n * width, values, width);
        float total = 0.0f, squares = 0.0f;
        _Pragma("omp simd reduction(+:total)")
        for (int64_t d = 0; d < width; ++d) total += values[d];
        float mean = total / float(width);
        _Pragma("omp simd reduction(+:squares)")
        for (int64_t d = 0; d < width; ++d) { float value = values[d] - mean; squares += value * value; }
        float scale = 1.0f / __builtin_sqrtf(squares / float(width) + eps);
        moments[2 * n] = mean;
        moments[2 * n + 1] = scale;
        SIMD for (int64_t d = 0; d < width; ++d) values[d] = (values[d] - mean) * scale * weight[d] + bias[d];
        store_row(out + n * width, values, width);
    }
}

// The backward pass: d_x is the gradient of the sum (with `through`, what comes past the norm, where given), d_delta that of
// delta. d_weight, d_bias and d_shift (D each, the last the sum of d_delta over rows) are added to.
void textus_add_layer_norm_backward(const bf16* gradient, const bf16* through, const bf16* sum, const float* moments,
                                    const float* weight, bf16* d_x, bf16* d_delta, float* d_weight, float* d_bias,
                                    float* d_shift, int64_t rows, int64_t width, float p, int64_t seed) {
    Dropout dropout(p, seed);
    float values[WIDE], slopes[WIDE];
    for (int64_t n = 0; n < rows; ++n) {
        const bf16 *g = gradient + n * width, *row = sum + n * width;
        float mean = moments[2 * n], scale = moments[2 * n + 1], total = 0.0f, dot = 0.0f;
        _Pragma("omp simd reduction(+:total,dot)")
        for (int64_t d = 0; d < width; ++d) {
            float slope = load(g[d]), value = (load(row[d]) - mean) * scale;
            d_bias[d] += slope;
            d_weight[d] += slope * value;
            slope *= weight[d];
            total += slope;
            dot += slope * value;
            slopes[d] = slope;
            values[d] = value;
        }
        total /= float(width);
        dot /= float(width);
        SIMD for (int64_t d = 0; d < width; ++d) slopes[d] = scale * (slopes[d] - total - values[d] * dot);
        if (through) {
            const bf16* past = through + n * width;
            SIMD for (int64_t d = 0; d < width; ++d) slopes[d] += load(past[d]);
        }
        store_row(d_x + n * width, slopes, width);
        if (p > 0.0f) {
            uint32_t at = uint32_t(n * width);
            SIMD for (int64_t d = 0; d < width; ++d) slopes[d] *= dropout.factor(at + uint32_t(d));
        }
        SIMD for (int64_t d = 0; d < width; ++d) d_shift[d] += slopes[d];
        store_row(d_delta + n * width, slopes, width);
    }
}

// Gradient of x times the integral of the normal distribution up to x, the exact form of GELU; d_bias (D), the sum of d_x over
// rows, is added to.
void textus_gelu_backward(const bf16* gradient, const bf16* x, bf16* d_x, float* d_bias, int64_t rows, int64_t width) {
    for (int64_t n = 0; n < rows; ++n)
        for (int64_t start = 0; start < width; start += PART) {
            int64_t at = n * width + start, count = width - start < PART ? width - start : PART;
            float values[PART];
            SIMD for (int64_t d = 0; d < count; ++d) {
                float value = load(x[at + d]), density, below;
                normal(value, density, below);
                values[d] = load(gradient[at + d]) * (below + value * density);
            }
            SIMD for (int64_t d = 0; d < count; ++d) d_bias[start + d] += values[d];
            store_row(d_x + at, values, count);
        }
}

// One of several vectors that each of the N rows (N, stride) holds, from `first` on -> heads (B, H, T, K), zero after a text's end.
void textus_spread_heads(const bf16* rows, const int64_t* starts, bf16* heads, int64_t stride, int64_t first, int64_t batch,
                         int64_t n_head, int64_t time, int64_t width) {
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < n_head; ++h) {
            int64_t length = starts[b + 1] - starts[b];
            bf16* target = heads + (b * n_head + h) * time * width;
            for (int64_t t = 0; t < length; ++t)
                std::memcpy(target + t * width, rows + (starts[b] + t) * stride + first + h * width, size_t(width) * sizeof(bf16));
            std::memset(target + length * width, 0, size_t((time - length) * width) * sizeof(bf16));
        }
}

// The inverse.
void textus_gather_heads(const bf16* heads, const int64_t* starts, bf16* rows, int64_t stride, int64_t first, int64_t batch,
                         int64_t n_head, int64_t time, int64_t width) {
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t t = 0; t < starts[b + 1] - starts[b]; ++t)
            for (int64_t h = 0; h < n_head; ++h)
                std::memcpy(rows + (starts[b] + t) * stride + first + h * width,
                            heads + ((b * n_head + h) * time + t) * width, size_t(width) * sizeof(bf16));
}

// In place: scores (B, H, T, T) times `factor` -> softmax over a text's own positions, zero elsewhere.
void textus_text_softmax(bf16* scores, const int64_t* starts, int64_t batch, int64_t n_head, int64_t time, float factor) {
    for (int64_t b = 0; b < batch; ++b) {
        int64_t length = starts[b + 1] - starts[b];
        for (int64_t h = 0; h < n_head; ++h) {
            bf16* rows = scores + (b * n_head + h) * time * time;
            softmax_rows(rows, length, time, factor);
            std::memset(rows + length * time, 0, size_t((time - length) * time) * sizeof(bf16));
        }
    }
}

// In place: gradient of the probabilities -> gradient of the scores, factor P (g - sum(P g)); nothing where P is zero.
void textus_text_softmax_backward(bf16* gradient, const bf16* probability, const int64_t* starts, int64_t batch,
                                  int64_t n_head, int64_t time, float factor) {
    float values[WIDE + LANES], shares[WIDE + LANES];
    for (int64_t b = 0; b < batch; ++b) {
        int64_t length = starts[b + 1] - starts[b];
        for (int64_t row = b * n_head * time; row < (b + 1) * n_head * time; ++row) {
            bf16* g = gradient + row * time;
            const bf16* p = probability + row * time;
            if (row % time >= length) {
                std::memset(g, 0, size_t(time) * sizeof(bf16));
                continue;
            }
            float dot = 0.0f;
            _Pragma("omp simd reduction(+:dot)")
            for (int64_t s = 0; s < time; ++s) {
                shares[s] = load(p[s]);
                values[s] = load(g[s]);
                dot += values[s] * shares[s];
            }
            SIMD for (int64_t s = 0; s < time; ++s) values[s] = shares[s] * (values[s] - dot) * factor;
            store_row(g, values, time);
        }
    }
}

// out (D) += the sum of rows (N, D).
void textus_add_rows(const bf16* rows, float* out, int64_t count, int64_t width) {
    for (int64_t n = 0; n < count; ++n)
        SIMD for (int64_t d = 0; d < width; ++d) out[d] += load(rows[n * width + d]);
}
}
