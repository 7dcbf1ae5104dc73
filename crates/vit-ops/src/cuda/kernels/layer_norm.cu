// Layer normalisation, one warp per row, with the variance in two passes.
#include "reduce.cuh"

// The statistics of a row that the backward pass needs.
struct Row {
    float mean;
    float scale;  // 1 / sqrt(Var[x] + eps)
};

extern "C" __global__ void layer_norm(const float *xs, const float *weight, const float *bias, float *ys, Row *stats,
                                      unsigned rows, unsigned dim, float eps) {
    unsigned row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    xs += (unsigned long long)row * dim;
    ys += (unsigned long long)row * dim;
    float total = 0.0f;
    for (unsigned i = lane; i < dim; i += WARP) total += xs[i];
    float mean = warp_sum(total) / dim;
    float squares = 0.0f;
    for (unsigned i = lane; i < dim; i += WARP) squares += (xs[i] - mean) * (xs[i] - mean);
    float scale = 1.0f / sqrtf(warp_sum(squares) / dim + eps);
    for (unsigned i = lane; i < dim; i += WARP) ys[i] = (xs[i] - mean) * scale * weight[i] + bias[i];
    if (lane == 0) stats[row] = {mean, scale};
}

// With n = (x - mean) scale and g = dy w: dx = scale (g - E[g] - n E[g n]).
extern "C" __global__ void layer_norm_gradient(const float *xs, const float *weight, const Row *stats,
                                               const float *grad, float *grad_xs, unsigned rows, unsigned dim) {
    unsigned row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    xs += (unsigned long long)row * dim;
    grad += (unsigned long long)row * dim;
    grad_xs += (unsigned long long)row * dim;
    Row stat = stats[row];
    float total = 0.0f, along = 0.0f;
    for (unsigned i = lane; i < dim; i += WARP) {
        float g = grad[i] * weight[i], n = (xs[i] - stat.mean) * stat.scale;
        total += g;
        along += g * n;
    }
    total = warp_sum(total) / dim;
    along = warp_sum(along) / dim;
    for (unsigned i = lane; i < dim; i += WARP) {
        float g = grad[i] * weight[i], n = (xs[i] - stat.mean) * stat.scale;
        grad_xs[i] = stat.scale * (g - total - n * along);
    }
}

// dw = sum dy n and db = sum dy over the rows of a slice: out (slices, 2, dim). A block has 8 x 128 threads (columns x
// rows).
extern "C" __global__ void layer_norm_parameters(const float *xs, const Row *stats, const float *grad, float *out,
                                                 unsigned rows, unsigned dim) {
    __shared__ float room[2][128][9];
    unsigned column = blockIdx.x * 8 + threadIdx.x;
    unsigned slice = (rows + gridDim.y - 1) / gridDim.y;
    unsigned begin = blockIdx.y * slice, end = min(rows, begin + slice);
    float of_weight = 0.0f, of_bias = 0.0f;
    if (column < dim)
#pragma unroll 4
        for (unsigned row = begin + threadIdx.y; row < end; row += 128) {
            unsigned long long i = (unsigned long long)row * dim + column;
            Row stat = stats[row];
            float dy = grad[i];
            of_weight += dy * ((xs[i] - stat.mean) * stat.scale);
            of_bias += dy;
        }
    room[0][threadIdx.y][threadIdx.x] = of_weight;
    room[1][threadIdx.y][threadIdx.x] = of_bias;
    of_weight = rows_of_block(room[0]);
    of_bias = rows_of_block(room[1]);
    if (threadIdx.y == 0 && column < dim) {
        out[(unsigned long long)blockIdx.y * 2 * dim + column] = of_weight;
        out[((unsigned long long)blockIdx.y * 2 + 1) * dim + column] = of_bias;
    }
}
