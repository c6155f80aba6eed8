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

// A head's coordinates turned by its position's angle; `sign` -1 turns them back.
template <typename From, typename To>
inline void turn(const Heads &h, int64_t token, float sign, const From *from, To *to) {
    const int64_t half = h.rotary / 2;
    const float *cosines = h.cosines + token * half, *sines = h.sines + token * half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
        const float x = read(from[i]), y = read(from[i + half]), sine = sign * sines[i];
        write(to[i], x * cosines[i] - y * sine);
        write(to[i + half], y * cosines[i] + x * sine);
    }
#pragma omp simd
    for (int64_t i = h.rotary; i < h.width; ++i) write(to[i], read(from[i]));
}

template <typename From, typename To>
inline void copy(int64_t count, const From *from, To *to) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) write(to[i], read(from[i]));
}

}  // namespace
