/* Runs the program of program.h twice on the same memory, for tests: inputs from program.inputs.bin, outputs to
   program.outputs.bin, the number of launches, copies and flags that were read to the standard output. */

#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>

#include "program.h"

#define TABLE (&program_table)
#define MOST 64

static CUfunction functions[MOST];
static CUstream stream;
static unsigned launches, copies, flags;

static int launch(void *user, const graphc_step *s, uint64_t *addresses)
{
    void *parameters[MOST];
    uint32_t k;
    (void)user;
    launches++;
    for (k = 0; k < s->place_count; k++)
        parameters[k] = &addresses[k];
    return (int)cuLaunchKernel(functions[s->kernel], s->grid[0], s->grid[1], s->grid[2], s->block[0], s->block[1],
                               s->block[2], s->shared_bytes, stream, parameters, NULL);
}

static int copy(void *user, uint64_t from, uint64_t to, uint64_t bytes)
{
    (void)user;
    copies++;
    return (int)cuMemcpyDtoDAsync(to, from, bytes, stream);
}

static int read_flag(void *user, uint64_t address, unsigned char *flag)
{
    (void)user;
    flags++;
    return (int)cuMemcpyDtoHAsync(flag, address, 1, stream) || (int)cuStreamSynchronize(stream);
}

static char *content(const char *name, size_t *size)
{
    FILE *file = fopen(name, "rb");
    char *bytes = (char *)calloc(1 << 22, 1);
    if (!file || !bytes)
        exit(1);
    *size = fread(bytes, 1, (1 << 22) - 1, file);
    fclose(file);
    return bytes;
}

static uint64_t allocate(uint64_t bytes)
{
    CUdeviceptr address = 0;
    if (bytes && cuMemAlloc(&address, bytes))
        exit(1);
    return address;
}

int main(void)
{
    uint64_t inputs[MOST], outputs[MOST], ports[MOST], addresses[MOST];
    size_t size, at = 0;
    uint32_t i;
    char *ptx = content("program.ptx", &size), *first = content("program.inputs.bin", &size);
    CUdevice device;
    CUcontext context;
    CUmodule module;
    FILE *file;
    graphc_host host = {inputs, outputs, 0, 0, ports, addresses, NULL, launch, copy, read_flag};

    if (cuInit(0) || cuDeviceGet(&device, 0) || cuDevicePrimaryCtxRetain(&context, device) || cuCtxPushCurrent(context) ||
        cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING) || cuModuleLoadDataEx(&module, ptx, 0, NULL, NULL))
        return 1;
    if (TABLE->kernel_count > MOST || TABLE->port_count > MOST || TABLE->most_places > MOST)
        return 2;
    for (i = 0; i < TABLE->kernel_count; i++)
        if (cuModuleGetFunction(&functions[i], module, TABLE->kernels[i]))
            return 3;
    for (i = 0; i < TABLE->input_count; i++) {
        inputs[i] = allocate(TABLE->inputs[i].bytes);
        if (cuMemcpyHtoDAsync(inputs[i], first + at, TABLE->inputs[i].bytes, stream))
            return 4;
        at += TABLE->inputs[i].bytes;
    }
    for (i = 0; i < TABLE->output_count; i++)
        outputs[i] = allocate(TABLE->outputs[i].bytes);
    host.arena = allocate(TABLE->arena_bytes);
    host.constants = allocate(TABLE->constant_bytes);
    if (TABLE->constant_bytes &&
        cuMemcpyHtoDAsync(host.constants, content("program.constants.bin", &size), TABLE->constant_bytes, stream))
        return 5;
    if (graphc_perform(TABLE, &host) || graphc_perform(TABLE, &host))
        return 6;
    file = fopen("program.outputs.bin", "wb");
    for (i = 0; i < TABLE->output_count; i++) {
        char *bytes = (char *)malloc(TABLE->outputs[i].bytes + 1);
        if (cuMemcpyDtoHAsync(bytes, outputs[i], TABLE->outputs[i].bytes, stream) || cuStreamSynchronize(stream))
            return 7;
        fwrite(bytes, 1, TABLE->outputs[i].bytes, file);
        free(bytes);
    }
    fclose(file);
    printf("%u %u %u\n", launches, copies, flags);
    free(ptx);
    free(first);
    return 0;
}
