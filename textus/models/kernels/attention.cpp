// Attention in tiles, forward and backward, by the processor's own bfloat16 products (vdpbf16ps): causal, and among all positions
// of a text.
//
// Why: as batched products the scores of all pairs are computed, some of them only to be masked, written to memory and read again;
// here sixteen queries' scores live in the nearest caches, keys above the diagonal, before a document's first or past a text's end
// are never looked at, and no probabilities are kept: memory grows with T, not T². The idea: FlashAttention (Dao et al. 2022).
// Shapes: B batch, T time, H query heads, G key-value heads, K head width (a multiple of 32). One thread a call.
//
// A product's left side is read one 32-bit pair of bfloat16 at a time and spread over a register; its right side is
// "paired": a register holds for 16 columns the pair of values that follow each other along the sum.

#include "bfloat16.h"

// What a head's width must be a multiple of; 0 where this processor has no such products.
extern "C" int64_t textus_attention_width_step() {
#ifdef __AVX512BF16__
    return 32;
#else
    return 0;
#endif
}

#ifdef __AVX512BF16__
#include <new>

namespace {

constexpr int64_t ROWS = 16;    // queries whose scores are held at once
constexpr int64_t BLOCK = 64;   // queries whose gradients are added to those of keys and values at once

int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Memory of one call, given back at its end.
struct Workspace {
    char *start, *next;
    explicit Workspace(int64_t bytes) : start(static_cast<char*>(operator new(size_t(bytes), std::align_val_t(64)))), next(start) {}
    ~Workspace() { operator delete(start, std::align_val_t(64)); }
    template <class T> T* take(int64_t count) {
        T* found = reinterpret_cast<T*>(next);
        next += up(count * int64_t(sizeof(T)), 64);
        return found;
    }
};

// Lanes of the keys s .. s + 15 inside [from, to).
INLINE __mmask16 lanes(int64_t s, int64_t from, int64_t to) {
    int64_t low = from - s, high = to - s;
    low = low < 0 ? 0 : low > 16 ? 16 : low;
    high = high < 0 ? 0 : high > 16 ? 16 : high;
    return __mmask16((0xffffu >> (16 - high)) & (0xffffu << low));
}

INLINE void round16(bf16* out, __m512 values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), __m256i(_mm512_cvtneps_pbh(values)));
}

// Two rows' values as pairs: the first row's in the lower halves.
INLINE __m512i paired(__m256i first, __m256i second) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

// sums[M][N] += left[m][pair] right[pair][16 n]: strides in 32-bit pairs.
template <int M, int N>
INLINE void multiply(const uint32_t* left, int64_t row, int64_t pair, const uint32_t* right, int64_t right_pair, int64_t pairs,
                     __m512 (&sums)[M][N]) {
    for (int64_t p = 0; p < pairs; ++p) {
        __m512bh columns[N];
        for (int n = 0; n < N; ++n) columns[n] = __m512bh(_mm512_loadu_si512(right + p * right_pair + 16 * n));
        for (int m = 0; m < M; ++m) {
            __m512bh spread = __m512bh(_mm512_set1_epi32(int(left[m * row + p * pair])));
            for (int n = 0; n < N; ++n) sums[m][n] = _mm512_dpbf16_ps(sums[m][n], spread, columns[n]);
        }
    }
}

template <int M, int N>
INLINE void clear(__m512 (&sums)[M][N]) {
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) sums[m][n] = _mm512_setzero_ps();
}

// out (16 rows, 16 N columns, stride) = left right.
template <int M, int N>
INLINE void tile(const uint32_t* left, int64_t row, const uint32_t* right, int64_t right_pair, int64_t pairs, float* out, int64_t stride) {
    for (int64_t r = 0; r < ROWS; r += M) {
        __m512 sums[M][N];
        clear(sums);
        multiply<M, N>(left + r * row, row, 1, right, right_pair, pairs, sums);
        for (int m = 0; m < M; ++m)
            for (int n = 0; n < N; ++n) _mm512_storeu_ps(out + (r + m) * stride + 16 * n, sums[m][n]);
    }
}

// out (16 rows) = left (16, 2 pairs) right (2 pairs, columns): a multiple of 16 columns.
INLINE void strip(const uint32_t* left, int64_t row, const uint32_t* right, int64_t right_pair, int64_t pairs, int64_t columns,
                  float* out, int64_t stride) {
    int64_t done = 0;
    for (; done + 64 <= columns; done += 64) tile<4, 4>(left, row, right + done, right_pair, pairs, out + done, stride);
    switch ((columns - done) / 16) {
        case 3: tile<4, 3>(left, row, right + done, right_pair, pairs, out + done, stride); break;
        case 2: tile<8, 2>(left, row, right + done, right_pair, pairs, out + done, stride); break;
        case 1: tile<16, 1>(left, row, right + done, right_pair, pairs, out + done, stride); break;
    }
}

// sums (4 rows of 16 N columns, `width` apart) += left (pairs, 4: columns of a paired matrix) right (pairs, 16 N).
template <int N>
INLINE void add(const uint32_t* left, int64_t stride, const uint32_t* right, int64_t width, int64_t pairs, float* sums) {
    __m512 kept[4][N];
    for (int m = 0; m < 4; ++m)
        for (int n = 0; n < N; ++n) kept[m][n] = _mm512_loadu_ps(sums + m * width + 16 * n);
    multiply<4, N>(left, 1, stride, right, width, pairs, kept);
    for (int m = 0; m < 4; ++m)
        for (int n = 0; n < N; ++n) _mm512_storeu_ps(sums + m * width + 16 * n, kept[m][n]);
}

// The same over all K columns.
INLINE void add_product(const uint32_t* left, int64_t stride, const uint32_t* right, int64_t width, int64_t pairs, float* sums) {
    int64_t d = 0;
    for (; d + 64 <= width; d += 64) add<4>(left, stride, right + d, width, pairs, sums + d);
    if (d < width) add<2>(left, stride, right + d, width, pairs, sums + d);
}

// A square of 16 x 16 pairs turned over its diagonal: first within pairs and fours of rows, then between fours of lanes.
INLINE void turn(__m512i (&x)[16]) {
    __m512i y[16];
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for (int i = 0; i < 4; ++i)
        for (int half = 0; half < 16; half += 8) {
            y[half + i] = _mm512_shuffle_i32x4(x[half + i], x[half + i + 4], 0x88);
            y[half + i + 4] = _mm512_shuffle_i32x4(x[half + i], x[half + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; ++i) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    }
}

// rows (T, K) of pairs, `stride` values apart, turned: out[pair][t], `padded` apart, zero from `time` on.
void turned(const bf16* rows, int64_t stride, uint32_t* out, int64_t time, int64_t width, int64_t padded) {
    int64_t pairs = width / 2;
    for (int64_t t = 0; t < padded; t += 16)
        for (int64_t p = 0; p < pairs; p += 16) {
            __m512i square[16];
            for (int64_t i = 0; i < 16; ++i)
                square[i] = t + i < time ? _mm512_loadu_si512(rows + (t + i) * stride + 2 * p) : _mm512_setzero_si512();
            turn(square);
            for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(out + (p + i) * padded + t, square[i]);
        }
}

// rows (T, K) -> out[t / 2][k]: rows 2 i and 2 i + 1 as pairs; zero from `time` on.
void pair_up(const bf16* rows, int64_t stride, uint32_t* out, int64_t time, int64_t width, int64_t padded) {
    for (int64_t t = 0; t < padded; t += 2)
        for (int64_t d = 0; d < width; d += 16) {
            const bf16* at = rows + t * stride + d;
            __m256i first = t < time ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)) : _mm256_setzero_si256();
            __m256i second = t + 1 < time ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + stride)) : _mm256_setzero_si256();
            _mm512_storeu_si512(out + t / 2 * width + d, paired(first, second));
        }
}

// `count` rows copied to the front of `most`, the rest zero.
INLINE void copy_rows(const bf16* rows, int64_t stride, bf16* out, int64_t count, int64_t most, int64_t width) {
    for (int64_t t = 0; t < most; ++t)
        if (t < count) std::memcpy(out + t * width, rows + t * stride, size_t(width) * 2);
        else std::memset(out + t * width, 0, size_t(width) * 2);
}

INLINE const uint32_t* words(const bf16* rows) { return reinterpret_cast<const uint32_t*>(rows); }

// Largest score and sum of e^(score - largest) of one query; its scores become probabilities times the sum, as bfloat16.
// A score is what is read times `factor`.
INLINE void weigh(const float* scores, bf16* out, int64_t start, int64_t end, int64_t from, int64_t to, float factor, float* top,
                  float* sum) {
    __m512 tops = _mm512_set1_ps(-3.0e38f), sums = _mm512_setzero_ps();
    for (int64_t s = start; s < end; s += 16) tops = _mm512_mask_max_ps(tops, lanes(s, from, to), tops, _mm512_loadu_ps(scores + s));
    *top = _mm512_reduce_max_ps(tops) * factor;
    __m512 most = _mm512_set1_ps(*top), times = _mm512_set1_ps(factor);
    for (int64_t s = start; s < end; s += 16) {
        __m512 value = _mm512_maskz_mov_ps(lanes(s, from, to), exponential(_mm512_fmsub_ps(_mm512_loadu_ps(scores + s), times, most)));
        sums = _mm512_add_ps(sums, value);
        round16(out + s, value);
    }
    *sum = _mm512_reduce_add_ps(sums);
}

int64_t least(const int32_t* first, int64_t count) {
    int64_t found = first[0];
    for (int64_t t = 1; t < count; ++t) found = first[t] < found ? first[t] : found;
    return found;
}

// One head of one text: rows of queries, keys and values, each `apart` values from the next.
struct Head {
    const bf16 *q, *k, *v;
    int64_t apart, length, width;
    float factor;          // scores are taken times it
    const int32_t* first;  // the first key each query sees, the last being itself; null: every query sees all

    int64_t from(int64_t t) const { return first ? first[t] : 0; }
    int64_t to(int64_t t) const { return first ? t + 1 : length; }
    // Whole registers of keys that hold all those which `count` queries from t on see.
    int64_t start(int64_t t, int64_t count) const { return first ? least(first + t, count) / 16 * 16 : 0; }
    int64_t end(int64_t t) const { return first ? t + ROWS : up(length, ROWS); }
};

// The forward pass, one head after the other; keys and values that several heads share are read once.
struct Forward {
    uint32_t *keys, *values;  // (K / 2, T), (T / 2, K)
    float *scores, *mixed;
    bf16 *weights, *queries;
    int64_t padded = 0;

    static int64_t bytes(int64_t longest, int64_t width) { return up(longest, ROWS) * (width * 4 + ROWS * 6) + ROWS * width * 6 + 1024; }
    Forward(Workspace& workspace, int64_t longest, int64_t width) {
        int64_t most = up(longest, ROWS);
        keys = workspace.take<uint32_t>(width / 2 * most);
        values = workspace.take<uint32_t>(most / 2 * width);
        scores = workspace.take<float>(ROWS * most);
        mixed = workspace.take<float>(ROWS * width);
        weights = workspace.take<bf16>(ROWS * most);
        queries = workspace.take<bf16>(ROWS * width);
        std::memset(weights, 0, size_t(ROWS * most) * 2);
    }

    void read(const Head& head) {
        padded = up(head.length, ROWS);
        turned(head.k, head.apart, keys, head.length, head.width, padded);
        pair_up(head.v, head.apart, values, head.length, head.width, padded);
    }

    // Rows of `out` are `out_apart` values from each other; log_sum (T) is for the backward pass.
    void attend(const Head& head, bf16* out, int64_t out_apart, float* log_sum) {
        int64_t width = head.width;
        for (int64_t t = 0; t < head.length; t += ROWS) {
            int64_t count = head.length - t < ROWS ? head.length - t : ROWS, start = head.start(t, count), end = head.end(t);
            copy_rows(head.q + t * head.apart, head.apart, queries, count, ROWS, width);
            strip(words(queries), width / 2, keys + start, padded, width / 2, end - start, scores + start, padded);
            float scale[ROWS];
            for (int64_t r = 0; r < count; ++r) {
                float top, sum;
                weigh(scores + r * padded, weights + r * padded, start, end, head.from(t + r), head.to(t + r), head.factor, &top, &sum);
                scale[r] = 1.0f / sum;
                log_sum[t + r] = top + __builtin_logf(sum);
            }
            strip(words(weights) + start / 2, padded / 2, values + start / 2 * width, width, (end - start) / 2, width, mixed, width);
            for (int64_t r = 0; r < count; ++r)
                for (int64_t d = 0; d < width; d += 16)
                    round16(out + (t + r) * out_apart + d, _mm512_mul_ps(_mm512_loadu_ps(mixed + r * width + d), _mm512_set1_ps(scale[r])));
        }
    }
};

// The backward pass: probabilities are computed again from the log of each query's sum, tile by tile.
struct Backward {
    uint32_t *keys, *values, *key_pairs;  // (K / 2, T) both, (T / 2, K)
    float *sum_k, *sum_v;
    uint32_t *weights, *slopes;           // (queries / 2, T)
    bf16 *slope_rows, *queries, *grads;
    uint32_t *query_pairs, *grad_pairs;
    float *d_queries, *scores, *d_weights;
    int64_t padded = 0;

    static int64_t bytes(int64_t longest, int64_t width) {
        return up(longest, ROWS) * (width * 14 + BLOCK * 4 + ROWS * 10) + BLOCK * width * 8 + ROWS * width * 4 + 4096;
    }
    Backward(Workspace& workspace, int64_t longest, int64_t width) {
        int64_t most = up(longest, ROWS), pairs = width / 2;
        keys = workspace.take<uint32_t>(pairs * most);
        values = workspace.take<uint32_t>(pairs * most);
        key_pairs = workspace.take<uint32_t>(most / 2 * width);
        sum_k = workspace.take<float>(most * width);
        sum_v = workspace.take<float>(most * width);
        weights = workspace.take<uint32_t>(BLOCK / 2 * most);
        slopes = workspace.take<uint32_t>(BLOCK / 2 * most);
        slope_rows = workspace.take<bf16>(ROWS * most);
        queries = workspace.take<bf16>(BLOCK * width);
        grads = workspace.take<bf16>(BLOCK * width);
        query_pairs = workspace.take<uint32_t>(BLOCK / 2 * width);
        grad_pairs = workspace.take<uint32_t>(BLOCK / 2 * width);
        d_queries = workspace.take<float>(ROWS * width);
        scores = workspace.take<float>(ROWS * most);
        d_weights = workspace.take<float>(ROWS * most);
    }

    void read(const Head& head) {
        padded = up(head.length, ROWS);
        turned(head.k, head.apart, keys, head.length, head.width, padded);
        turned(head.v, head.apart, values, head.length, head.width, padded);
        pair_up(head.k, head.apart, key_pairs, head.length, head.width, padded);
        std::memset(sum_k, 0, size_t(padded * head.width) * 4);
        std::memset(sum_v, 0, size_t(padded * head.width) * 4);
    }

    // Gradient of the queries, `head.apart` from each other; those of keys and values are added to the sums.
    void attend(const Head& head, const bf16* d_out, int64_t out_apart, const float* log_sum, bf16* d_q) {
        int64_t width = head.width, pairs = width / 2;
        __m512 factor = _mm512_set1_ps(head.factor);
        for (int64_t block = 0; block < head.length; block += BLOCK) {
            int64_t held = head.length - block < BLOCK ? head.length - block : BLOCK, done = up(held, ROWS);
            int64_t start = head.start(block, held), last = head.end(block + done - ROWS);
            copy_rows(head.q + block * head.apart, head.apart, queries, held, BLOCK, width);
            copy_rows(d_out + block * out_apart, out_apart, grads, held, BLOCK, width);
            pair_up(queries, width, query_pairs, BLOCK, width, BLOCK);
            pair_up(grads, width, grad_pairs, BLOCK, width, BLOCK);
            for (int64_t t = block; t < block + held; t += ROWS) {
                int64_t end = head.end(t), inside = t - block;
                strip(words(queries) + inside * pairs, pairs, keys + start, padded, pairs, end - start, scores + start, padded);
                strip(words(grads) + inside * pairs, pairs, values + start, padded, pairs, end - start, d_weights + start, padded);
                __m512 dots[ROWS];
                for (int64_t r = 0; r < ROWS; ++r) {
                    bool real = t + r < head.length;
                    int64_t from = real ? head.from(t + r) : 0, to = real ? head.to(t + r) : 0;
                    __m512 log = _mm512_set1_ps(real ? log_sum[t + r] : 0.0f), dot = _mm512_setzero_ps();
                    for (int64_t s = start; s < end; s += 16) {
                        float* at = scores + r * padded + s;
                        __m512 score = _mm512_fmsub_ps(_mm512_loadu_ps(at), factor, log);
                        __m512 weight = _mm512_maskz_mov_ps(lanes(s, from, to), exponential(score));
                        dot = _mm512_fmadd_ps(weight, _mm512_loadu_ps(d_weights + r * padded + s), dot);
                        _mm512_storeu_ps(at, weight);
                    }
                    dots[r] = _mm512_set1_ps(_mm512_reduce_add_ps(dot));
                }
                for (int64_t r = 0; r < ROWS; r += 2)
                    for (int64_t s = start; s < end; s += 16) {
                        __m256i p[2], g[2];
                        for (int64_t i = 0; i < 2; ++i) {
                            __m512 weight = _mm512_loadu_ps(scores + (r + i) * padded + s);
                            __m512 slope = _mm512_sub_ps(_mm512_loadu_ps(d_weights + (r + i) * padded + s), dots[r + i]);
                            p[i] = __m256i(_mm512_cvtneps_pbh(weight));
                            g[i] = __m256i(_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_mul_ps(weight, slope), factor)));
                            _mm256_storeu_si256(reinterpret_cast<__m256i*>(slope_rows + (r + i) * padded + s), g[i]);
                        }
                        _mm512_storeu_si512(weights + (inside + r) / 2 * padded + s, paired(p[0], p[1]));
                        _mm512_storeu_si512(slopes + (inside + r) / 2 * padded + s, paired(g[0], g[1]));
                    }
                strip(words(slope_rows) + start / 2, padded / 2, key_pairs + start / 2 * width, width, (end - start) / 2, width, d_queries, width);
                for (int64_t r = 0; r < ROWS && t + r < head.length; ++r)
                    for (int64_t d = 0; d < width; d += 16)
                        round16(d_q + (t + r) * head.apart + d, _mm512_loadu_ps(d_queries + r * width + d));
            }
            for (int64_t s = start; s < last; s += 4) {
                // queries before a key see nothing of it: their rows were not written
                int64_t pair = head.first && s > block ? (s - block) / ROWS * ROWS / 2 : 0, at = pair * padded + s;
                add_product(weights + at, padded, grad_pairs + pair * width, width, done / 2 - pair, sum_v + s * width);
                add_product(slopes + at, padded, query_pairs + pair * width, width, done / 2 - pair, sum_k + s * width);
            }
        }
    }

    void write(const Head& head, bf16* d_k, bf16* d_v) {
        for (int64_t t = 0; t < head.length; ++t)
            for (int64_t d = 0; d < head.width; d += 16) {
                round16(d_k + t * head.apart + d, _mm512_loadu_ps(sum_k + t * head.width + d));
                round16(d_v + t * head.apart + d, _mm512_loadu_ps(sum_v + t * head.width + d));
            }
    }
};

// Head h of the text that has the positions `starts[b]` to `starts[b + 1]` of qkv (N, 3, H, K).
Head head_of(const bf16* qkv, const int64_t* starts, int64_t b, int64_t h, int64_t n_head, int64_t width, float factor) {
    int64_t part = n_head * width;
    const bf16* q = qkv + starts[b] * 3 * part + h * width;
    return {q, q + part, q + 2 * part, 3 * part, starts[b + 1] - starts[b], width, factor, nullptr};
}

}  // namespace

extern "C" {

// q (B, H, T, K) already over the root of K, k and v (B, G, T, K) -> out (B, T, H, K); log_sum (B, H, T) is kept for the backward pass.
// first (B, T): the first key each query sees; the last is itself.
void textus_attention(const bf16* q, const bf16* k, const bf16* v, const int32_t* first, bf16* out, float* log_sum, int64_t batch,
                      int64_t time, int64_t n_head, int64_t n_kv_head, int64_t width) {
    int64_t repeats = n_head / n_kv_head;
    Workspace workspace(Forward::bytes(time, width));
    Forward forward(workspace, time, width);
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < n_head; ++h) {
            int64_t row = (b * n_head + h) * time, place = (b * n_kv_head + h / repeats) * time * width;
            Head head{q + row * width, k + place, v + place, width, time, width, 1.0f, first + b * time};
            if (h % repeats == 0) forward.read(head);
            forward.attend(head, out + (b * time * n_head + h) * width, n_head * width, log_sum + row);
        }
}

// d_out (B, T, H, K) and what the forward pass read and kept -> d_q (B, H, T, K), d_k and d_v (B, G, T, K).
void textus_attention_backward(const bf16* d_out, const bf16* q, const bf16* k, const bf16* v, const float* log_sum,
                               const int32_t* first, bf16* d_q, bf16* d_k, bf16* d_v, int64_t batch, int64_t time, int64_t n_head,
                               int64_t n_kv_head, int64_t width) {
    int64_t repeats = n_head / n_kv_head;
    Workspace workspace(Backward::bytes(time, width));
    Backward backward(workspace, time, width);
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < n_head; ++h) {
            int64_t row = (b * n_head + h) * time, place = (b * n_kv_head + h / repeats) * time * width;
            int64_t at = (b * time * n_head + h) * width;
            Head head{q + row * width, k + place, v + place, width, time, width, 1.0f, first + b * time};
            if (h % repeats == 0) backward.read(head);
            backward.attend(head, d_out + at, n_head * width, log_sum + row, d_q + row * width);
            if (h % repeats == repeats - 1) backward.write(head, d_k + place, d_v + place);
        }
}

// Every position sees all of its own text: qkv (N, 3, H, K) of texts one after the other -> out (N, H, K), and log_sum (H, N). Text b has the positions `starts[b]` to `starts[b + 1]`, at most `longest`; scores are taken times `factor`.
void textus_text_attention(const bf16* qkv, const int64_t* starts, bf16* out, float* log_sum, int64_t positions, int64_t batch,
                           int64_t n_head, int64_t longest, int64_t width, float factor) {
    Workspace workspace(Forward::bytes(longest, width));
    Forward forward(workspace, longest, width);
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < n_head; ++h) {
            Head head = head_of(qkv, starts, b, h, n_head, width, factor);
            forward.read(head);
            forward.attend(head, out + (starts[b] * n_head + h) * width, n_head * width, log_sum + h * positions + starts[b]);
        }
}

// The gradient of qkv (N, 3, H, K) from d_out (N, H, K) and what the forward pass read and kept.
void textus_text_attention_backward(const bf16* d_out, const bf16* qkv, const float* log_sum, const int64_t* starts,
                                    bf16* d_qkv, int64_t positions, int64_t batch, int64_t n_head, int64_t longest, int64_t width,
                                    float factor) {
    Workspace workspace(Backward::bytes(longest, width));
    Backward backward(workspace, longest, width);
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < n_head; ++h) {
            Head head = head_of(qkv, starts, b, h, n_head, width, factor);
            int64_t at = (starts[b] * n_head + h) * width;
            bf16* target = d_qkv + (head.q - qkv);
            backward.read(head);
            backward.attend(head, d_out + at, n_head * width, log_sum + h * positions + starts[b], target);
            backward.write(head, target + n_head * width, target + 2 * n_head * width);
        }
}
}
#endif
