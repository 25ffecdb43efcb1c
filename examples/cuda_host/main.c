/* Trains on a GPU without Python: loads digits_step.ptx, gives every place of its launch table an address, and runs the
   table's steps once for each batch.

       ./digits_host FOLDER      (the folder that make_step.py has written) */

#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "digits_step.h"

#define TABLE (&digits_step_table)

static void check(CUresult status, const char *what)
{
    const char *name = NULL;
    if (status == CUDA_SUCCESS)
        return;
    cuGetErrorName(status, &name);
    fprintf(stderr, "%s: %s\n", what, name ? name : "unknown error");
    exit(1);
}

/* The file's bytes with a 0 behind them; `size` gets their number. */
static char *read_file(const char *folder, const char *name, size_t *size)
{
    char path[4096], *content;
    long length;
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) || (length = ftell(file)) < 0) {
        fprintf(stderr, "%s: can't be read\n", path);
        exit(1);
    }
    rewind(file);
    content = malloc((size_t)length + 1);
    if (!content || fread(content, 1, (size_t)length, file) != (size_t)length) {
        fprintf(stderr, "%s: can't be read\n", path);
        exit(1);
    }
    fclose(file);
    content[length] = 0;
    *size = (size_t)length;
    return content;
}

static CUdeviceptr allocate(uint64_t bytes)
{
    CUdeviceptr address = 0;
    if (bytes)
        check(cuMemAlloc(&address, bytes), "cuMemAlloc");
    return address;
}

typedef struct program {
    CUfunction *functions; /* one for each kernel */
    void **parameters;
    CUstream stream;
} program;

static void *zeros(size_t count, size_t size)
{
    void *memory = calloc(count + 1, size);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

/* What graphc_perform asks for; errors end the program here, so that no status is given back. */
static int launch(void *user, const graphc_step *s, uint64_t *addresses)
{
    const program *p = (const program *)user;
    uint32_t k;
    for (k = 0; k < s->place_count; k++)
        p->parameters[k] = &addresses[k];
    check(cuLaunchKernel(p->functions[s->kernel], s->grid[0], s->grid[1], s->grid[2], s->block[0], s->block[1],
                         s->block[2], s->shared_bytes, p->stream, p->parameters, NULL),
          TABLE->kernels[s->kernel]);
    return 0;
}

static int copy(void *user, uint64_t from, uint64_t to, uint64_t bytes)
{
    check(cuMemcpyDtoDAsync(to, from, bytes, ((const program *)user)->stream), "cuMemcpyDtoDAsync");
    return 0;
}

static int read_flag(void *user, uint64_t address, unsigned char *flag)
{
    const program *p = (const program *)user;
    check(cuMemcpyDtoHAsync(flag, address, 1, p->stream), "flag");
    check(cuStreamSynchronize(p->stream), "flag");
    return 0;
}

static uint32_t input_named(const char *name)
{
    uint32_t i;
    for (i = 0; i < TABLE->input_count; i++)
        if (!strcmp(TABLE->inputs[i].name, name))
            return i;
    fprintf(stderr, "the program has no input %s\n", name);
    exit(1);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "out";
    size_t size, at = 0;
    uint32_t i, x, y, loss = TABLE->output_count;
    char *ptx, *first, *batches;
    CUdevice device;
    CUcontext context;
    CUmodule module;
    uint64_t *inputs, *outputs;
    program p;
    graphc_host host;

    check(cuInit(0), "cuInit");
    check(cuDeviceGet(&device, 0), "cuDeviceGet");
    check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    check(cuCtxPushCurrent(context), "cuCtxPushCurrent");
    check(cuStreamCreate(&p.stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");

    ptx = read_file(folder, "digits_step.ptx", &size);
    check(cuModuleLoadDataEx(&module, ptx, 0, NULL, NULL), "digits_step.ptx");
    p.functions = (CUfunction *)zeros(TABLE->kernel_count, sizeof *p.functions);
    p.parameters = (void **)zeros(TABLE->most_places, sizeof *p.parameters);
    inputs = (uint64_t *)zeros(TABLE->input_count, sizeof *inputs);
    outputs = (uint64_t *)zeros(TABLE->output_count, sizeof *outputs);
    for (i = 0; i < TABLE->kernel_count; i++)
        check(cuModuleGetFunction(&p.functions[i], module, TABLE->kernels[i]), TABLE->kernels[i]);

    first = read_file(folder, "digits_step.inputs.bin", &size);
    for (i = 0; i < TABLE->input_count; i++) {
        inputs[i] = allocate(TABLE->inputs[i].bytes);
        check(cuMemcpyHtoDAsync(inputs[i], first + at, TABLE->inputs[i].bytes, p.stream), TABLE->inputs[i].name);
        at += TABLE->inputs[i].bytes;
    }
    for (i = 0; i < TABLE->donation_count; i++)
        outputs[TABLE->donations[i].output] = inputs[TABLE->donations[i].input];
    for (i = 0; i < TABLE->output_count; i++) {
        if (!outputs[i])
            outputs[i] = allocate(TABLE->outputs[i].bytes);
        if (!strcmp(TABLE->outputs[i].name, "loss"))
            loss = i;
    }
    if (loss == TABLE->output_count)
        return 1;
    host.inputs = inputs;
    host.outputs = outputs;
    host.arena = allocate(TABLE->arena_bytes);
    host.constants = allocate(TABLE->constant_bytes);
    host.ports = (uint64_t *)zeros(TABLE->port_count, sizeof *host.ports);
    host.addresses = (uint64_t *)zeros(TABLE->most_places, sizeof *host.addresses);
    host.user = &p;
    host.launch = launch;
    host.copy = copy;
    host.read = read_flag;
    if (TABLE->constant_bytes) {
        char *constants = read_file(folder, "digits_step.constants.bin", &size);
        check(cuMemcpyHtoDAsync(host.constants, constants, TABLE->constant_bytes, p.stream), "constants");
        check(cuStreamSynchronize(p.stream), "constants");
        free(constants);
    }

    x = input_named("x");
    y = input_named("y");
    batches = read_file(folder, "digits_step.batches.bin", &size);
    for (at = 0; at + TABLE->inputs[x].bytes + TABLE->inputs[y].bytes <= size;) {
        float value;
        check(cuMemcpyHtoDAsync(inputs[x], batches + at, TABLE->inputs[x].bytes, p.stream), "x");
        at += TABLE->inputs[x].bytes;
        check(cuMemcpyHtoDAsync(inputs[y], batches + at, TABLE->inputs[y].bytes, p.stream), "y");
        at += TABLE->inputs[y].bytes;
        graphc_perform(TABLE, &host);
        check(cuMemcpyDtoHAsync(&value, outputs[loss], sizeof value, p.stream), "loss");
        check(cuStreamSynchronize(p.stream), "step");
        printf("%.6f\n", value);
    }
    free(ptx);
    free(first);
    free(batches);
    free(p.functions);
    free(p.parameters);
    free(host.ports);
    free(host.addresses);
    free(inputs);
    free(outputs);
    return 0;
}
