// What is computed of one row: norms, activations, the sums of a softmax.

#pragma once

#include "common.h"

namespace {

struct Moments {
    float mean, scale;
};

// What a norm takes from a row, and multiplies the rest by.
inline Moments moments(const float *x, int64_t width, bool centred, float epsilon) {
    float mean = 0, squares = 0;
    if (centred) {
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < width; ++i) mean += x[i];
        mean /= width;
    }
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < width; ++i) squares += (x[i] - mean) * (x[i] - mean);
    return {mean, 1.f / std::sqrt(squares / width + epsilon)};
}

// A root-mean-square norm, or a layer norm where there is a bias.
template <typename T>
inline void normalise(const float *x, int64_t width, const float *weight, const float *bias,
                      float epsilon, T *y) {
    const Moments m = moments(x, width, bias, epsilon);
    if (bias) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i)
            write(y[i], (x[i] - m.mean) * m.scale * weight[i] + bias[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) write(y[i], x[i] * m.scale * weight[i]);
    }
}

inline float silu(float x) { return x / (1.f + exponential(-x)); }

inline float relu(float x) { return x > 0.f ? x : 0.f; }

// x times the normal distribution function, by Abramowitz and Stegun's 7.1.26: within 1e-7 of it.
inline float gelu(float x) {
    const float size = std::fabs(x) * 0.70710678f, t = 1.f / (1.f + 0.3275911f * size);
    float sum = 1.061405429f;
    sum = sum * t - 1.453152027f;
    sum = sum * t + 1.421413741f;
    sum = sum * t - 0.284496736f;
    sum = sum * t + 0.254829592f;
    const float tail = 0.5f * sum * t * exponential(-size * size);
    return x * (x < 0.f ? tail : 1.f - tail);
}

// The same with a hyperbolic tangent (arXiv 1606.08415, section 2).
inline float gelu_tanh(float x) {
    const float inner = 1.5957691f * (x + 0.044715f * x * x * x);
    return x / (1.f + exponential(-inner));
}

constexpr int64_t TOKENS = 128;  // whose weights are summed in float32; the rest is in float64

template <typename T>
inline float highest_of(const T *x, int64_t count) {
    float highest = -INFINITY;
#pragma omp simd reduction(max : highest)
    for (int64_t i = 0; i < count; ++i) highest = read(x[i]) > highest ? read(x[i]) : highest;
    return highest;
}

// The weights in a softmax of the TOKENS numbers from `start` on, as far as there are so many, for
// the highest number 1.
template <typename T>
inline float weights_from(int64_t start, const T *x, int64_t count, float highest) {
    const int64_t end = start + TOKENS < count ? start + TOKENS : count;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = start; i < end; ++i) sum += exponential(read(x[i]) - highest);
    return sum;
}

}  // namespace
