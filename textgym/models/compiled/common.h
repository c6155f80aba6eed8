// What all compiled steps share: number formats, the exponential, vectors.
//
// Compiled on the machine that uses it (library.py); every function has a twin in plain PyTorch,
// which runs where no compiler is. Rows are independent of each other and each is one thread's, so
// the numbers depend neither on the number of threads nor on what else is in the batch.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

struct bfloat16 {
    uint16_t bits;
};

inline float read(float x) { return x; }
inline float read(bfloat16 x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline void write(float &to, float x) { to = x; }
inline void write(bfloat16 &to, float x) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    to.bits = static_cast<uint16_t>(x == x ? rounded : 0x7fc0u);
}

// e to the x: 2 to the whole part of x / ln 2, times a polynomial of the rest (Cephes' expf).
// Below the least normal number it is 0. Plain arithmetic, so that the compiler makes vectors of it.
inline float exponential(float x) {
    constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
    constexpr float WHOLE = 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
    float inside = x < -87.33f ? -87.33f : (x > 88.f ? 88.f : x);
    float whole = (inside * LOG2E + WHOLE) - WHOLE;
    float rest = (inside - whole * LN2_HIGH) - whole * LN2_LOW;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.f;
    int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return x < -87.33f ? 0.f : sum * power;
}

typedef float Lanes __attribute__((vector_size(64)));  // whatever the processor's own vectors are
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(64)));
constexpr int64_t LANES = 16;
inline int64_t padded(int64_t width) { return (width + LANES - 1) / LANES * LANES; }

inline Lanes load(const float *from) {
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}
inline Lanes load(const bfloat16 *from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    Words words = __builtin_convertvector(halves, Words) << 16;
    Lanes lanes;
    std::memcpy(&lanes, &words, sizeof lanes);
    return lanes;
}
inline void store(float *to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

// Returns the sum of all lanes, or what else `join` makes of two.
template <typename F>
inline float fold(Lanes lanes, F join) {
    typedef float Eight __attribute__((vector_size(32)));
    typedef float Four __attribute__((vector_size(16)));
    Eight eights[2];
    std::memcpy(eights, &lanes, sizeof eights);
    const Eight eight = join(eights[0], eights[1]);
    Four fours[2];
    std::memcpy(fours, &eight, sizeof fours);
    const Four four = join(fours[0], fours[1]);
    return join(join(four[0], four[1]), join(four[2], four[3]));
}
inline float sum(Lanes lanes) {
    return fold(lanes, [](auto x, auto y) { return x + y; });
}

struct alignas(sizeof(Lanes)) Vector {
    float lanes[LANES];
};

constexpr int64_t TILE = 8;  // sums that are held in registers at once

template <size_t... J>
using Indices = std::index_sequence<J...>;

// Calls tile(start, Indices) over `count` columns, TILE at a time: the compiler knows how many.
template <typename F>
inline void in_tiles(int64_t count, F tile) {
    int64_t start = 0;
    for (; start + TILE <= count; start += TILE) tile(start, std::make_index_sequence<TILE>());
    switch (count - start) {
        case 1: return tile(start, std::make_index_sequence<1>());
        case 2: return tile(start, std::make_index_sequence<2>());
        case 3: return tile(start, std::make_index_sequence<3>());
        case 4: return tile(start, std::make_index_sequence<4>());
        case 5: return tile(start, std::make_index_sequence<5>());
        case 6: return tile(start, std::make_index_sequence<6>());
        case 7: return tile(start, std::make_index_sequence<7>());
    }
}

// Adds to vector J, `apart` from the next, `count` other vectors: the i-th times the number that
// lies at i * down + J * across.
template <size_t... J>
inline void add_products(const float *vectors, int64_t count, const float *numbers, int64_t down,
                         int64_t across, float *to, int64_t apart, Indices<J...>) {
    Lanes sums[] = {load(to + static_cast<int64_t>(J) * apart)...};
    for (int64_t i = 0; i < count; ++i) {
        const Lanes x = load(vectors + i * LANES);
        ((sums[J] += x * numbers[i * down + static_cast<int64_t>(J) * across]), ...);
    }
    (store(to + static_cast<int64_t>(J) * apart, sums[J]), ...);
}

// Shuffles LANES * LANES numbers as cards: half of the places' bits later, all are transposed.
inline void shuffle(const float *from, float *to) {
    constexpr int64_t HALF = LANES * LANES / 2;
    for (int64_t i = 0; i < HALF; ++i) {
        to[2 * i] = from[i];
        to[2 * i + 1] = from[HALF + i];
    }
}

// Turns panels into columns, or columns into panels.
inline void transpose(const float *from, int64_t wide, float *to) {
    float once[LANES * LANES], twice[LANES * LANES];
    for (int64_t i = 0; i < wide * LANES; i += LANES * LANES) {
        shuffle(from + i, once);
        shuffle(once, twice);
        shuffle(twice, once);
        shuffle(once, to + i);
    }
}

}  // namespace
