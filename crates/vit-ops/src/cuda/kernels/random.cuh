// Dropout masks from vit-random's Philox4x32-10: the same masks as on the CPU.
#pragma once

// Counts the steps of a captured graph. Its other arguments are fixed at capture.
struct Clock {
    unsigned step;   // added to the step of random numbers and reports
    unsigned index;  // the step's index in the epoch's tables
};

struct Draw {
    unsigned seed_low, seed_high;
    unsigned step, site, first_sample;
    unsigned threshold;  // sixteen random bits below it drop their element
    float keep;          // factor of the other elements
};

__device__ inline uint4 philox(uint4 counter, uint2 key) {
    for (int round = 0; round < 10; ++round) {
        unsigned high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        unsigned high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// The masks of elements 4 * block to 4 * block + 3 of a sample, from half of the random numbers at a counter.
__device__ inline float4 masks(const Draw &draw, const Clock *clock, unsigned sample, unsigned block) {
    unsigned step = draw.step + (clock ? clock->step : 0);
    uint4 counter = make_uint4(block / 2, draw.first_sample + sample, step, draw.site);
    uint4 bits = philox(counter, make_uint2(draw.seed_low, draw.seed_high));
    unsigned first = block % 2 ? bits.z : bits.x, second = block % 2 ? bits.w : bits.y;
    return make_float4((first & 0xFFFFu) < draw.threshold ? 0.0f : draw.keep,
                       first >> 16 < draw.threshold ? 0.0f : draw.keep,
                       (second & 0xFFFFu) < draw.threshold ? 0.0f : draw.keep,
                       second >> 16 < draw.threshold ? 0.0f : draw.keep);
}

// The mask of one element of a sample.
__device__ inline float mask(const Draw &draw, const Clock *clock, unsigned sample, unsigned element) {
    float4 four = masks(draw, clock, sample, element / 4);
    switch (element % 4) {
        case 0: return four.x;
        case 1: return four.y;
        case 2: return four.z;
        default: return four.w;
    }
}
