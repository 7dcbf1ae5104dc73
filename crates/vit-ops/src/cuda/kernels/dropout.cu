extern "C" __global__ void placeholder_fill(float *xs, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) xs[i] = 0.0f;
}
