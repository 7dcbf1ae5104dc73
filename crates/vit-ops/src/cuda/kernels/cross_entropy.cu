// Cross entropy with smoothed labels. One thread computes a row of few classes, otherwise a warp.
#include "reduce.cuh"

struct Target {
    float of_label;  // 1 - smoothing
    float spread;    // smoothing / classes
};

// A row's largest logit, and the sums of exp(x_c - most) and of x_c - most.
struct Logits {
    float most, exponentials, shifted;
};

__device__ inline Logits logits_of(const float *row, unsigned classes, unsigned lane, unsigned width) {
    Logits l = {-INFINITY, 0.0f, 0.0f};
    for (unsigned c = lane; c < classes; c += width) l.most = fmaxf(l.most, row[c]);
    if (width == WARP) l.most = warp_max(l.most);
    for (unsigned c = lane; c < classes; c += width) {
        l.exponentials += expf(row[c] - l.most);
        l.shifted += row[c] - l.most;
    }
    if (width == WARP) {
        l.exponentials = warp_sum(l.exponentials);
        l.shifted = warp_sum(l.shifted);
    }
    return l;
}

// sum_n log sum_c exp(x_nc) - (1 - e) x_n[label] - e / classes sum_c x_nc, in one block. An
// out-of-range label gives NaN.
extern "C" __global__ void cross_entropy(const float *logits, const unsigned *labels, float *loss, unsigned batch,
                                         unsigned classes, Target target, unsigned width) {
    __shared__ float room[32];
    unsigned lane = threadIdx.x % width, groups = blockDim.x / width;
    float total = 0.0f;
    for (unsigned row = threadIdx.x / width; row < batch; row += groups) {
        const float *xs = logits + (unsigned long long)row * classes;
        Logits l = logits_of(xs, classes, lane, width);
        unsigned label = labels[row];
        float of_label = label < classes ? xs[label] - l.most : NAN;
        if (lane == 0) total += logf(l.exponentials) - (target.of_label * of_label + target.spread * l.shifted);
    }
    total = block_sum(total, room);
    if (threadIdx.x == 0) *loss = total;
}

// dx = dy (softmax(x) - (1 - e) onehot(label) - e / classes)
extern "C" __global__ void cross_entropy_gradient(const float *logits, const unsigned *labels, const float *grad,
                                                  float *grad_logits, unsigned batch, unsigned classes, Target target,
                                                  unsigned width) {
    unsigned row = blockIdx.x * (blockDim.x / width) + threadIdx.x / width, lane = threadIdx.x % width;
    if (row >= batch) return;
    const float *xs = logits + (unsigned long long)row * classes;
    float *dx = grad_logits + (unsigned long long)row * classes;
    Logits l = logits_of(xs, classes, lane, width);
    for (unsigned c = lane; c < classes; c += width) {
        float want = target.spread + (c == labels[row] ? target.of_label : 0.0f);
        dx[c] = (expf(xs[c] - l.most) / l.exponentials - want) * *grad;
    }
}
