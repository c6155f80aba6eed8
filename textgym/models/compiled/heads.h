// Queries, keys and values as their product leaves them: a token's heads side by side, the queries'
// first. Queries and keys are turned by their token's place (RoPE, arXiv 2104.09864).

#pragma once

#include "common.h"

struct Heads {
    int64_t heads, kv_heads, width, rotary;  // the first `rotary` coordinates of a head are turned
    const float *cosines, *sines;            // [tokens, rotary / 2]

    int64_t numbers() const { return (heads + 2 * kv_heads) * width; }  // of a token
};

namespace {

// Turns pairs of coordinates, i and i + half; `sign` -1 turns them back. In place too.
template <typename From, typename To>
inline void rotate(int64_t half, const float *cosines, const float *sines, float sign,
                   const From *from, To *to) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
        const float x = read(from[i]), y = read(from[i + half]), sine = sign * sines[i];
        write(to[i], x * cosines[i] - y * sine);
        write(to[i + half], y * cosines[i] + x * sine);
    }
}

// A head's coordinates turned by its token's angles, or turned back.
template <typename From, typename To>
inline void turn(const Heads &h, int64_t token, float sign, const From *from, To *to) {
    const int64_t half = h.rotary / 2;
    rotate(half, h.cosines + token * half, h.sines + token * half, sign, from, to);
#pragma omp simd
    for (int64_t i = h.rotary; i < h.width; ++i) write(to[i], read(from[i]));
}

template <typename From, typename To>
inline void copy(int64_t count, const From *from, To *to) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) write(to[i], read(from[i]));
}

}  // namespace
