// Sums and maxima whose order depends on the shape alone, so that the same input gives the same bits.
#pragma once

constexpr unsigned WARP = 32;
constexpr unsigned ALL = 0xffffffffu;

__device__ inline float warp_sum(float x) {
    for (unsigned offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL, x, offset);
    return x;
}

__device__ inline float warp_max(float x) {
    for (unsigned offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, offset));
    return x;
}

// The sum over a block of whole warps; every thread gets it. `room` holds one number per warp.
template <typename T>
__device__ inline T block_sum(T x, T *room) {
    for (unsigned offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL, x, offset);
    unsigned warps = blockDim.x / WARP;
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    T total = 0;
    for (unsigned warp = 0; warp < warps; ++warp) total += room[warp];
    __syncthreads();
    return total;
}

// The sums over the 128 rows of 8 columns; the first row's threads get them. The ninth column avoids bank conflicts.
__device__ inline float rows_of_block(float (*room)[9]) {
    for (unsigned rows = 64; rows > 0; rows /= 2) {
        __syncthreads();
        if (threadIdx.y < rows) room[threadIdx.y][threadIdx.x] += room[threadIdx.y + rows][threadIdx.x];
    }
    return room[threadIdx.y][threadIdx.x];
}
