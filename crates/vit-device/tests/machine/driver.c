/* A stub driver, set by the environment: VIT_STUB_INIT is the code that cuInit returns, VIT_STUB_CUDA the CUDA version,
   VIT_STUB_GPUS the number of GPUs, VIT_STUB_CAPABILITY ten times their compute capability. */

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int cuInit(unsigned int flags) { return flags == 0 ? setting("VIT_STUB_INIT", 0) : 1; }

int cuGetErrorName(int code, const char **name) {
    switch (code) {
    case 46: *name = "CUDA_ERROR_DEVICE_UNAVAILABLE"; return 0;
    case 100: *name = "CUDA_ERROR_NO_DEVICE"; return 0;
    case 803: *name = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"; return 0;
    default: *name = NULL; return 1;
    }
}

int cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }

int cuDriverGetVersion(int *version) { *version = setting("VIT_STUB_CUDA", 13000); return 0; }

int cuDeviceGetCount(int *count) { *count = setting("VIT_STUB_GPUS", 1); return 0; }

int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }

int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "Stub %d", device - 40);
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = setting("VIT_STUB_CAPABILITY", 90);
    if (device < 40) return 101;
    switch (attribute) {
    case 75: *value = capability / 10; return 0;
    case 76: *value = capability % 10; return 0;
    default: return 1;
    }
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(device - 39) << 30; return 0; }

/* Computes nothing: each GPU is reserved by another program. */
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = NULL; return device < 40 ? 101 : 46; }
