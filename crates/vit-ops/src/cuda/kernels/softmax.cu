// Softmax over the last dimension, one warp per row.
#include "reduce.cuh"

extern "C" __global__ void softmax(const float *xs, float *ys, unsigned rows, unsigned width) {
    unsigned row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    xs += (unsigned long long)row * width;
    ys += (unsigned long long)row * width;
    float most = -INFINITY;
    for (unsigned i = lane; i < width; i += WARP) most = fmaxf(most, xs[i]);
    most = warp_max(most);
    float total = 0.0f;
    for (unsigned i = lane; i < width; i += WARP) total += expf(xs[i] - most);
    total = warp_sum(total);
    for (unsigned i = lane; i < width; i += WARP) ys[i] = expf(xs[i] - most) / total;
}

// dx_i = y_i (dy_i - sum_j dy_j y_j)
extern "C" __global__ void softmax_gradient(const float *ys, const float *grad, float *grad_xs, unsigned rows,
                                            unsigned width) {
    unsigned row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    ys += (unsigned long long)row * width;
    grad += (unsigned long long)row * width;
    grad_xs += (unsigned long long)row * width;
    float along = 0.0f;
    for (unsigned i = lane; i < width; i += WARP) along += grad[i] * ys[i];
    along = warp_sum(along);
    for (unsigned i = lane; i < width; i += WARP) grad_xs[i] = ys[i] * (grad[i] - along);
}
