// Moving elements: patches, rows of the first tokens, one tensor added to every sample, images by index.
#include "random.cuh"

typedef unsigned long long Index;

__device__ inline Index here() { return blockIdx.x * (Index)blockDim.x + threadIdx.x; }

struct Patches {
    unsigned channels, rows, columns, height, width;
};

// The index in the images of element i of the patches (batch, patches, channels * height * width).
__device__ inline Index in_image(Index i, const Patches &p) {
    Index x = i % p.width, rest = i / p.width;
    Index y = rest % p.height;
    rest /= p.height;
    Index channel = rest % p.channels;
    rest /= p.channels;
    Index column = rest % p.columns;
    rest /= p.columns;
    Index row = rest % p.rows, image = rest / p.rows;
    return ((image * p.channels + channel) * p.rows * p.height + row * p.height + y) * p.columns * p.width +
           column * p.width + x;
}

extern "C" __global__ void patchify(const float *images, float *patches, Index len, Patches shape) {
    Index i = here();
    if (i < len) patches[i] = images[in_image(i, shape)];
}

extern "C" __global__ void unpatchify(const float *patches, float *images, Index len, Patches shape) {
    Index i = here();
    if (i < len) images[in_image(i, shape)] = patches[i];
}

// The first `taken` numbers of each sample of `sample` numbers.
extern "C" __global__ void take_first(const float *xs, float *ys, Index len, unsigned taken, unsigned sample) {
    Index i = here();
    if (i < len) ys[i] = xs[i / taken * sample + i % taken];
}

// The gradient of `take_first`: zeros for the other numbers.
extern "C" __global__ void put_first(const float *grad, float *grad_xs, Index len, unsigned taken, unsigned sample) {
    Index i = here();
    if (i < len) grad_xs[i] = i % sample < taken ? grad[i / sample * taken + i % sample] : 0.0f;
}

extern "C" __global__ void add_each(const float *xs, const float *shared, float *ys, Index len, Index sample) {
    Index i = here();
    if (i < len) ys[i] = xs[i] + shared[i % sample];
}

// A batch: the images and labels that the epoch's order gives for this step, with each byte normalised through a table.
// Images are NaN where the order has ended or its index is out of range.
extern "C" __global__ void gather(const unsigned char *pixels, const unsigned *classes, const unsigned *order,
                                  unsigned order_len, unsigned count, const float *table, float *images,
                                  unsigned *labels, unsigned first, unsigned batch, unsigned samples_of_step,
                                  unsigned image_len, const Clock *clock) {
    Index i = here();
    Index sample = i / image_len;
    if (sample >= batch) return;
    Index at = (Index)(clock ? clock->index : 0) * samples_of_step + first + sample;
    Index index = at < order_len ? order[at] : count;
    bool named = index < count;
    images[i] = named ? table[pixels[index * image_len + i % image_len]] : NAN;
    if (i % image_len == 0) labels[sample] = named ? classes[index] : 0;
}
