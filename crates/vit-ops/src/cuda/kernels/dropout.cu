// y = x m; draws the mask four elements at a time.
#include "random.cuh"

extern "C" __global__ void dropout(const float *xs, float *ys, unsigned batch, unsigned sample_len, Draw draw,
                                   const Clock *clock) {
    unsigned blocks = (sample_len + 3) / 4;
    unsigned long long at = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    unsigned sample = at / blocks, block = at % blocks;
    if (sample >= batch) return;
    float4 m = masks(draw, clock, sample, block);
    unsigned long long first = (unsigned long long)sample * sample_len;
    unsigned element = 4 * block;
    const float four[4] = {m.x, m.y, m.z, m.w};
    for (unsigned lane = 0; lane < 4 && element + lane < sample_len; ++lane)
        ys[first + element + lane] = xs[first + element + lane] * four[lane];
}
