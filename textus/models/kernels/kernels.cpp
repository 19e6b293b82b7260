// The element-wise half of a Transformer's training step on CPUs; matrix products stay with torch (oneDNN).
//
// Why: compiled by torch.inductor the same arithmetic needs 17 translation units and 20-30 CPU-seconds before the first
// step, and spends as long as the matrix products; here it is one file, built in a second or two, and each kernel
// reads and writes its rows once. Plain C functions on raw pointers, called through ctypes, which lets go of Python's
// lock, so that two workers run at once. One thread a call and a fixed order of additions: same input, same bytes.
//
// Storage is bfloat16 (uint16_t), arithmetic is float. Shapes: B batch, T time, D width, H query heads, G key-value heads,
// K head width, F feed-forward width, N = B T rows, V vocabulary.

#include "bfloat16.h"

extern "C" {

// x += delta where delta is given (summed in float, kept as bfloat16); out = x / rms(x) * weight. inverse (N) keeps 1 / rms.
void textus_add_rms_norm(const bf16* x, const bf16* delta, const float* weight, bf16* sum, bf16* out, float* inverse,
                         int64_t rows, int64_t width, float eps) {
    for (int64_t n = 0; n < rows; ++n) {
        const bf16* row = x + n * width;
        if (delta) {
            const bf16* add = delta + n * width;
            bf16* kept = sum + n * width;
            SIMD for (int64_t d = 0; d < width; ++d) kept[d] = store(load(row[d]) + load(add[d]));
            row = kept;
        }
        float squares = 0.0f;
        _Pragma("omp simd reduction(+:squares)")
        for (int64_t d = 0; d < width; ++d) { float value = load(row[d]); squares += value * value; }
        float scale = 1.0f / __builtin_sqrtf(squares / float(width) + eps);
        inverse[n] = scale;
        bf16* target = out + n * width;
        SIMD for (int64_t d = 0; d < width; ++d) target[d] = store(load(row[d]) * scale * weight[d]);
    }
}

// Gradient of the norm: d_x = d_sum + inverse (w g - x inverse^2 mean(w g x)); d_weight (D) is added to.
void textus_rms_norm_backward(const bf16* gradient, const bf16* x, const float* inverse, const float* weight,
                              const bf16* d_sum, bf16* d_x, float* d_weight, int64_t rows, int64_t width) {
    for (int64_t n = 0; n < rows; ++n) {
        const bf16 *g = gradient + n * width, *row = x + n * width, *through = d_sum + n * width;
        float scale = inverse[n], dot = 0.0f;
        _Pragma("omp simd reduction(+:dot)")
        for (int64_t d = 0; d < width; ++d) dot += load(g[d]) * weight[d] * load(row[d]);
        float back = dot * scale * scale * scale / float(width);
        bf16* target = d_x + n * width;
        SIMD for (int64_t d = 0; d < width; ++d) {
            float value = load(row[d]), slope = load(g[d]);
            d_weight[d] += slope * value * scale;
            target[d] = store(load(through[d]) + slope * weight[d] * scale - value * back);
        }
    }
}

// One head of one position: scale to unit rms and weight where `weight` is given, turn by the angles, times `factor`.
INLINE void turn_head(const bf16* in, bf16* out, const float* weight, const float* cos, const float* sin,
                             float* inverse, int64_t width, float eps, float factor) {
    int64_t half = width / 2;
    float scale = 1.0f;
    if (weight) {
        float squares = 0.0f;
        _Pragma("omp simd reduction(+:squares)")
        for (int64_t d = 0; d < width; ++d) { float value = load(in[d]); squares += value * value; }
        scale = 1.0f / __builtin_sqrtf(squares / float(width) + eps);
        *inverse = scale;
    }
    float values[512], turned[512];
    SIMD for (int64_t d = 0; d < width; ++d) values[d] = load(in[d]) * scale * factor;
    if (weight)
        SIMD for (int64_t d = 0; d < width; ++d) values[d] *= weight[d];
    SIMD for (int64_t d = 0; d < half; ++d) {
        turned[d] = values[d] * cos[d] - values[d + half] * sin[d];
        turned[d + half] = values[d + half] * cos[d] + values[d] * sin[d];
    }
    store_row(out, turned, width);
}

// qkv (B, T, H + 2G, K) -> q (B, H, T, K) times `factor`, k and v (B, G, T, K); inverse (B, T, H + G) of the head norms.
// cos and sin (T, K); q_weight and k_weight (K) may be null: no norm.
INLINE void split_heads(const bf16* qkv, const float* q_weight, const float* k_weight, const float* cos,
                        const float* sin, bf16* q, bf16* k, bf16* v, float* inverse, int64_t batch, int64_t time,
                        int64_t n_head, int64_t n_kv_head, int64_t width, float eps, float factor) {
    int64_t all = n_head + 2 * n_kv_head;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t t = 0; t < time; ++t) {
            const bf16* row = qkv + (b * time + t) * all * width;
            float* kept = inverse + (b * time + t) * (n_head + n_kv_head);
            const float *c = cos + t * width, *s = sin + t * width;
            for (int64_t h = 0; h < n_head; ++h)
                turn_head(row + h * width, q + ((b * n_head + h) * time + t) * width, q_weight, c, s, kept + h, width, eps, factor);
            for (int64_t g = 0; g < n_kv_head; ++g) {
                int64_t place = ((b * n_kv_head + g) * time + t) * width;
                turn_head(row + (n_head + g) * width, k + place, k_weight, c, s, kept + n_head + g, width, eps, 1.0f);
                std::memcpy(v + place, row + (n_head + n_kv_head + g) * width, size_t(width) * sizeof(bf16));
            }
        }
}

INLINE void unturn_head(const bf16* gradient, const bf16* in, bf16* out, const float* weight, float* d_weight,
                               const float* cos, const float* sin, float scale, int64_t width, float factor) {
    int64_t half = width / 2;
    float values[512], turned[512];
    SIMD for (int64_t d = 0; d < width; ++d) values[d] = load(gradient[d]) * factor;
    SIMD for (int64_t d = 0; d < half; ++d) {
        turned[d] = values[d] * cos[d] + values[d + half] * sin[d];
        turned[d + half] = values[d + half] * cos[d] - values[d] * sin[d];
    }
    if (weight) {
        float dot = 0.0f;
        SIMD for (int64_t d = 0; d < width; ++d) values[d] = load(in[d]);
        SIMD for (int64_t d = 0; d < width; ++d) d_weight[d] += turned[d] * values[d] * scale;
        SIMD for (int64_t d = 0; d < width; ++d) turned[d] *= weight[d];
        _Pragma("omp simd reduction(+:dot)")
        for (int64_t d = 0; d < width; ++d) dot += turned[d] * values[d];
        float back = dot * scale * scale * scale / float(width);
        SIMD for (int64_t d = 0; d < width; ++d) turned[d] = turned[d] * scale - values[d] * back;
    }
    store_row(out, turned, width);
}

// The backward pass: gradients of q, k, v to that of qkv; those of the head norms' weights are added to.
INLINE void split_heads_backward(const bf16* d_q, const bf16* d_k, const bf16* d_v, const bf16* qkv,
                                 const float* inverse, const float* q_weight, const float* k_weight, const float* cos,
                                 const float* sin, bf16* d_qkv, float* d_q_weight, float* d_k_weight, int64_t batch,
                                 int64_t time, int64_t n_head, int64_t n_kv_head, int64_t width, float factor) {
    int64_t all = n_head + 2 * n_kv_head;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t t = 0; t < time; ++t) {
            const bf16* row = qkv + (b * time + t) * all * width;
            bf16* target = d_qkv + (b * time + t) * all * width;
            const float* kept = inverse + (b * time + t) * (n_head + n_kv_head);
            const float *c = cos + t * width, *s = sin + t * width;
            for (int64_t h = 0; h < n_head; ++h)
                unturn_head(d_q + ((b * n_head + h) * time + t) * width, row + h * width, target + h * width, q_weight,
                            d_q_weight, c, s, kept[h], width, factor);
            for (int64_t g = 0; g < n_kv_head; ++g) {
                int64_t place = ((b * n_kv_head + g) * time + t) * width, at = (n_head + g) * width;
                unturn_head(d_k + place, row + at, target + at, k_weight, d_k_weight, c, s, kept[n_head + g], width, 1.0f);
                std::memcpy(target + at + n_kv_head * width, d_v + place, size_t(width) * sizeof(bf16));
            }
        }
}

// The width as a constant, so that the loops over a head unroll: 64 is what presets take, 128 what larger models have.
void textus_split_heads(const bf16* qkv, const float* q_weight, const float* k_weight, const float* cos,
                        const float* sin, bf16* q, bf16* k, bf16* v, float* inverse, int64_t batch, int64_t time,
                        int64_t n_head, int64_t n_kv_head, int64_t width, float eps, float factor) {
#define SPLIT(WIDTH) \
    split_heads(qkv, q_weight, k_weight, cos, sin, q, k, v, inverse, batch, time, n_head, n_kv_head, WIDTH, eps, factor)
    if (width == 64) SPLIT(64);
    else if (width == 128) SPLIT(128);
    else SPLIT(width);
#undef SPLIT
}

void textus_split_heads_backward(const bf16* d_q, const bf16* d_k, const bf16* d_v, const bf16* qkv,
                                 const float* inverse, const float* q_weight, const float* k_weight, const float* cos,
                                 const float* sin, bf16* d_qkv, float* d_q_weight, float* d_k_weight, int64_t batch,
                                 int64_t time, int64_t n_head, int64_t n_kv_head, int64_t width, float factor) {
#define SPLIT(WIDTH) \
    split_heads_backward(d_q, d_k, d_v, qkv, inverse, q_weight, k_weight, cos, sin, d_qkv, d_q_weight, d_k_weight, \
                         batch, time, n_head, n_kv_head, WIDTH, factor)
    if (width == 64) SPLIT(64);
    else if (width == 128) SPLIT(128);
    else SPLIT(width);
#undef SPLIT
}

// In place: scores (B, H, T, T) -> softmax over keys first[b, t] .. t, zero elsewhere.
void textus_causal_softmax(bf16* scores, const int32_t* first, int64_t batch, int64_t n_head, int64_t time) {
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < n_head; ++h)
            for (int64_t t = 0; t < time; ++t) {
                bf16* row = scores + ((b * n_head + h) * time + t) * time;
                int64_t from = first[b * time + t], to = t + 1, count = to - from;
                float values[8192 + LANES];
                SIMD for (int64_t s = 0; s < count; ++s) values[s] = load(row[from + s]);
                softmax(values, count);
                store_row(row + from, values, count);
                std::memset(row, 0, size_t(from) * sizeof(bf16));
                std::memset(row + to, 0, size_t(time - to) * sizeof(bf16));
            }
}

// In place: gradient of the probabilities -> gradient of the scores, P (g - sum(P g)).
void textus_causal_softmax_backward(bf16* gradient, const bf16* probability, const int32_t* first, int64_t batch,
                                    int64_t n_head, int64_t time) {
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < n_head; ++h)
            for (int64_t t = 0; t < time; ++t) {
                int64_t at = ((b * n_head + h) * time + t) * time, from = first[b * time + t], to = t + 1;
                bf16* g = gradient + at;
                const bf16* p = probability + at;
                float dot = 0.0f;
                _Pragma("omp simd reduction(+:dot)")
                for (int64_t s = from; s < to; ++s) dot += load(g[s]) * load(p[s]);
                float values[8192];
                SIMD for (int64_t s = from; s < to; ++s) values[s] = load(p[s]) * (load(g[s]) - dot);
                store_row(g + from, values + from, to - from);
                std::memset(g, 0, size_t(from) * sizeof(bf16));
                std::memset(g + to, 0, size_t(time - to) * sizeof(bf16));
            }
}

// (B, H, T, K) -> (B, T, H, K) where `merge`, the other way where not.
void textus_merge_heads(const bf16* in, bf16* out, int64_t batch, int64_t time, int64_t n_head, int64_t width, int32_t merge) {
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t t = 0; t < time; ++t)
            for (int64_t h = 0; h < n_head; ++h) {
                int64_t split = ((b * n_head + h) * time + t) * width, merged = ((b * time + t) * n_head + h) * width;
                std::memcpy(out + (merge ? merged : split), in + (merge ? split : merged), size_t(width) * sizeof(bf16));
            }
}

// gate_up (N, 2F) -> silu(gate) * up (N, F).
void textus_swiglu(const bf16* gate_up, bf16* out, int64_t rows, int64_t width) {
    for (int64_t n = 0; n < rows; ++n)
        for (int64_t start = 0; start < width; start += PART) {
            const bf16 *gate = gate_up + 2 * n * width + start, *up = gate + width;
            int64_t count = width - start < PART ? width - start : PART;
            float values[PART];
            SIMD for (int64_t d = 0; d < count; ++d) { float x = load(gate[d]); values[d] = x * sigmoid(x) * load(up[d]); }
            store_row(out + n * width + start, values, count);
        }
}

void textus_swiglu_backward(const bf16* gradient, const bf16* gate_up, bf16* d_gate_up, int64_t rows, int64_t width) {
    for (int64_t n = 0; n < rows; ++n)
        for (int64_t start = 0; start < width; start += PART) {
            const bf16 *gate = gate_up + 2 * n * width + start, *up = gate + width, *g = gradient + n * width + start;
            bf16* d_gate = d_gate_up + 2 * n * width + start;
            int64_t count = width - start < PART ? width - start : PART;
            float gates[PART], ups[PART];
            SIMD for (int64_t d = 0; d < count; ++d) {
                float x = load(gate[d]), s = sigmoid(x), slope = load(g[d]);
                ups[d] = slope * x * s;
                gates[d] = slope * load(up[d]) * s * (1.0f + x * (1.0f - s));
            }
            store_row(d_gate, gates, count);
            store_row(d_gate + width, ups, count);
        }
}

// In place: each value kept with probability 1 - p and divided by it, or zero. Which, is a hash of (seed, place), so that
// nothing is stored for the backward pass and any number of threads gives the same. The hash: the finaliser of MurmurHash3 (Appleby).
void textus_dropout(bf16* x, int64_t count, int64_t seed, float p) {
    uint32_t threshold = uint32_t(double(p) * 4294967296.0), start = uint32_t(seed);
    float scale = 1.0f / (1.0f - p);
    SIMD for (int64_t i = 0; i < count; ++i) {
        uint32_t hash = uint32_t(i) * 0x9e3779b9u + start;
        hash = (hash ^ (hash >> 16)) * 0x85ebca6bu;
        hash = (hash ^ (hash >> 13)) * 0xc2b2ae35u;
        hash ^= hash >> 16;
        x[i] = hash >= threshold ? store(load(x[i]) * scale) : bf16(0);
    }
}

// In place: logits (N, V) -> weight (softmax - one-hot); returns the sum of weighted losses in nats.
double textus_cross_entropy(bf16* logits, const int64_t* targets, const float* weights, int64_t rows, int64_t vocabulary) {
    double total = 0.0;
    for (int64_t n = 0; n < rows; ++n) {
        bf16* row = logits + n * vocabulary;
        float top = -3.0e38f, sum = 0.0f, real = load(row[targets[n]]), weight = weights[n];
        _Pragma("omp simd reduction(max:top)")
        for (int64_t v = 0; v < vocabulary; ++v) { float value = load(row[v]); top = value > top ? value : top; }
        _Pragma("omp simd reduction(+:sum)")
        for (int64_t v = 0; v < vocabulary; ++v) sum += exponential(load(row[v]) - top);
        float scale = weight / sum;
        total += double(weight) * (double(top) - double(real) + double(__builtin_logf(sum)));
        SIMD for (int64_t v = 0; v < vocabulary; ++v) row[v] = store(exponential(load(row[v]) - top) * scale);
        row[targets[n]] = store(exponential(real - top) * scale - weight);
    }
    return total;
}
}
