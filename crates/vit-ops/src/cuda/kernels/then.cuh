// The rest of a linear map, after its product: bias, activation, dropout.
#pragma once

#include "random.cuh"

enum Activation { IDENTITY = 0, RELU = 1, GELU = 2 };

// Adds a bias, applies an activation, and drops elements, in this order.
struct Then {
    const float *bias;    // or null
    float *inputs;        // receives the activation's inputs, or null
    unsigned activation;
    unsigned sample_len;  // 0 without dropout
};

// erf, not normcdf: both are accurate to the last bits, and the composed form uses erf.
__device__ inline float cumulative_normal(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

// The output for the product `x` of element `at`, in this column.
__device__ inline float finished(float x, unsigned long long at, unsigned column, const Then &then, const Draw &draw,
                                 const Clock *clock) {
    if (then.bias) x += then.bias[column];
    if (then.inputs) then.inputs[at] = x;
    if (then.activation == RELU) x = x <= 0.0f ? 0.0f : x;
    if (then.activation == GELU) x = x * cumulative_normal(x);
    if (then.sample_len) x *= mask(draw, clock, at / then.sample_len, at % then.sample_len);
    return x;
}
