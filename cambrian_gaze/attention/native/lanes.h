// Vectors of floats as wide as the instruction set that this is compiled for, in the vector extension that GCC and Clang
// share; and the few functions on them that attention needs.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

// Lanes of a vector; query heads, and vectors of rows, that are worked on together, as the registers allow. At most as
// many of both as there are lanes.
#if defined(__AVX512F__)
constexpr int LANES = 16, HEADS_AT_ONCE = 4, TILE = 4;
#elif defined(__AVX2__)
constexpr int LANES = 8, HEADS_AT_ONCE = 4, TILE = 2;
#else
constexpr int LANES = 4, HEADS_AT_ONCE = 4, TILE = 1;
#endif

constexpr float NOTHING = -std::numeric_limits<float>::infinity();  // the score of what has no weight

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

struct bf16 {
    uint16_t raw;
};

inline vec load(const float* at) { return *reinterpret_cast<const vec_anywhere*>(at); }
inline vec load(const bf16* at) {
    return (vec)(__builtin_convertvector(*reinterpret_cast<const halves*>(at), words) << 16);
}
inline void store(float* at, vec value) { *reinterpret_cast<vec_anywhere*>(at) = value; }

inline void narrow(float x, float& out) { out = x; }
inline void narrow(float x, bf16& out) {  // to the nearest, ties to even
    uint32_t raw;
    std::memcpy(&raw, &x, 4);
    out.raw = x != x ? 0x7fc0 : uint16_t((raw + 0x7fff + ((raw >> 16) & 1)) >> 16);
}

// The lanes of even and of odd number of a and then b, added: half as many lanes for each, each the sum of two.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, ints{__VA_ARGS__})
#endif
inline vec add_pairs(vec a, vec b) {
#if defined(__AVX512F__)
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif defined(__AVX2__)
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
    return SHUFFLE(a, b, 0, 2, 4, 6) + SHUFFLE(a, b, 1, 3, 5, 7);
#endif
}

// The sums of N <= LANES vectors, in the first N lanes. Each is taken in the same order, whatever N is.
template <int N>
inline vec sums(const vec (&values)[N]) {
    vec level[N];
    std::copy(values, values + N, level);
    for (int number = N, lanes = LANES; lanes > 1; lanes /= 2) {
        for (int i = 0; i < number; i += 2) level[i / 2] = add_pairs(level[i], level[std::min(i + 1, number - 1)]);
        number = (number + 1) / 2;
    }
    return level[0];
}

inline float highest(vec value) {
    float lanes[LANES];
    std::memcpy(lanes, &value, sizeof lanes);
    return *std::max_element(lanes, lanes + LANES);
}

// e^x for x <= 0, to 2 ulp; 0 below -87, where it would soon be no normal number.
inline vec exponential(vec x) {
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    vec shifted = x * 1.44269504f + shift, whole = shifted - shift;
    vec rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec value = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    value = value * rest + 8.3334519073e-3f;
    value = value * rest + 4.1665795894e-2f;
    value = value * rest + 1.6666665459e-1f;
    value = value * rest + 5.0000001201e-1f;
    value = value * rest * rest + rest + 1.0f;
    ints scale = ((ints)shifted - 0x4B400000) << 23;
    return (vec)(((ints)value + scale) & ~(ints)(x < -87.0f));
}

// dot[h][i] = q[h] . (row i) for H queries and M rows of `dim` elements; the same bits, whatever H and M are.
template <int H, int M, class T>
inline void dots(const float* const* q, const T* rows, int64_t dim, float* const* dot) {
    vec total[H * M] = {};
    for (int64_t d = 0; d < dim; d += LANES) {
        vec row[M];
        for (int i = 0; i < M; i++) row[i] = load(rows + i * dim + d);
        for (int h = 0; h < H; h++) {
            const vec query = load(q[h] + d);
            for (int i = 0; i < M; i++) total[h * M + i] += query * row[i];
        }
    }
    const vec found = sums(total);
    for (int h = 0; h < H; h++)
        for (int i = 0; i < M; i++) dot[h][i] = found[h * M + i];
}

// The same for any number of rows.
template <int H, class T>
void products(const float* const* q, const T* rows, int64_t count, int64_t dim, float* const* dot) {
    float* at[H];
    std::copy(dot, dot + H, at);
    int64_t i = 0;
    for (; i + TILE <= count; i += TILE) {
        dots<H, TILE>(q, rows + i * dim, dim, at);
        for (int h = 0; h < H; h++) at[h] += TILE;
    }
    for (; i < count; i++) {
        dots<H, 1>(q, rows + i * dim, dim, at);
        for (int h = 0; h < H; h++) at[h]++;
    }
}

// out[h] += sum over rows t of weight[h][t] * (row t), for N vectors of columns.
template <int H, int N, class T>
inline void weighted(const float* const* weight, const T* rows, int64_t count, int64_t dim, float* const* out) {
    vec total[H][N];
    for (int h = 0; h < H; h++)
        for (int i = 0; i < N; i++) total[h][i] = load(out[h] + i * LANES);
    for (int64_t t = 0; t < count; t++) {
        vec row[N];
        for (int i = 0; i < N; i++) row[i] = load(rows + t * dim + i * LANES);
        for (int h = 0; h < H; h++)
            for (int i = 0; i < N; i++) total[h][i] += row[i] * weight[h][t];
    }
    for (int h = 0; h < H; h++)
        for (int i = 0; i < N; i++) store(out[h] + i * LANES, total[h][i]);
}

// The same for all `dim` columns.
template <int H, class T>
void mixtures(const float* const* weight, const T* rows, int64_t count, int64_t dim, float* const* out) {
    float* at[H];
    std::copy(out, out + H, at);
    int64_t d = 0;
    for (; d + TILE * LANES <= dim; d += TILE * LANES) {
        weighted<H, TILE>(weight, rows + d, count, dim, at);
        for (int h = 0; h < H; h++) at[h] += TILE * LANES;
    }
    for (; d < dim; d += LANES) {
        weighted<H, 1>(weight, rows + d, count, dim, at);
        for (int h = 0; h < H; h++) at[h] += LANES;
    }
}
