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
    CUdeviceptr *inputs, *outputs, arena, constants;
    CUfunction *functions; /* one for each step; unused where it is a copy */
    CUstream stream;
} program;

static CUdeviceptr address_of(const program *p, graphc_place place)
{
    switch (place.memory) {
    case GRAPHC_INPUT: return p->inputs[place.at];
    case GRAPHC_OUTPUT: return p->outputs[place.at];
    case GRAPHC_ARENA: return p->arena + place.at;
    default: return p->constants + place.at;
    }
}

/* All steps of the table, in order, in one stream. */
static void run(const program *p)
{
    uint32_t i, k;
    for (i = 0; i < TABLE->step_count; i++) {
        const graphc_step *s = &TABLE->steps[i];
        CUdeviceptr addresses[64];
        void *parameters[64];
        if (!s->kernel) {
            CUdeviceptr from = address_of(p, s->places[0]), to = address_of(p, s->places[1]);
            check(cuMemcpyDtoDAsync(to, from, s->bytes, p->stream), "cuMemcpyDtoDAsync");
            continue;
        }
        if (s->place_count > 64) {
            fprintf(stderr, "%s: more than 64 parameters\n", s->kernel);
            exit(1);
        }
        for (k = 0; k < s->place_count; k++) {
            addresses[k] = address_of(p, s->places[k]);
            parameters[k] = &addresses[k];
        }
        check(cuLaunchKernel(p->functions[i], s->grid[0], s->grid[1], s->grid[2], s->block[0], s->block[1], s->block[2],
                             s->shared_bytes, p->stream, parameters, NULL),
              s->kernel);
    }
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
    program p;

    check(cuInit(0), "cuInit");
    check(cuDeviceGet(&device, 0), "cuDeviceGet");
    check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    check(cuCtxPushCurrent(context), "cuCtxPushCurrent");
    check(cuStreamCreate(&p.stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");

    ptx = read_file(folder, "digits_step.ptx", &size);
    check(cuModuleLoadDataEx(&module, ptx, 0, NULL, NULL), "digits_step.ptx");
    p.functions = calloc(TABLE->step_count + 1, sizeof *p.functions);
    p.inputs = calloc(TABLE->input_count + 1, sizeof *p.inputs);
    p.outputs = calloc(TABLE->output_count + 1, sizeof *p.outputs);
    if (!p.functions || !p.inputs || !p.outputs)
        return 1;
    for (i = 0; i < TABLE->step_count; i++)
        if (TABLE->steps[i].kernel)
            check(cuModuleGetFunction(&p.functions[i], module, TABLE->steps[i].kernel), TABLE->steps[i].kernel);

    first = read_file(folder, "digits_step.inputs.bin", &size);
    for (i = 0; i < TABLE->input_count; i++) {
        p.inputs[i] = allocate(TABLE->inputs[i].bytes);
        check(cuMemcpyHtoDAsync(p.inputs[i], first + at, TABLE->inputs[i].bytes, p.stream), TABLE->inputs[i].name);
        at += TABLE->inputs[i].bytes;
    }
    for (i = 0; i < TABLE->donation_count; i++)
        p.outputs[TABLE->donations[i].output] = p.inputs[TABLE->donations[i].input];
    for (i = 0; i < TABLE->output_count; i++) {
        if (!p.outputs[i])
            p.outputs[i] = allocate(TABLE->outputs[i].bytes);
        if (!strcmp(TABLE->outputs[i].name, "loss"))
            loss = i;
    }
    if (loss == TABLE->output_count)
        return 1;
    p.arena = allocate(TABLE->arena_bytes);
    p.constants = allocate(TABLE->constant_bytes);
    if (TABLE->constant_bytes) {
        char *constants = read_file(folder, "digits_step.constants.bin", &size);
        check(cuMemcpyHtoDAsync(p.constants, constants, TABLE->constant_bytes, p.stream), "constants");
        check(cuStreamSynchronize(p.stream), "constants");
        free(constants);
    }

    x = input_named("x");
    y = input_named("y");
    batches = read_file(folder, "digits_step.batches.bin", &size);
    for (at = 0; at + TABLE->inputs[x].bytes + TABLE->inputs[y].bytes <= size;) {
        float value;
        check(cuMemcpyHtoDAsync(p.inputs[x], batches + at, TABLE->inputs[x].bytes, p.stream), "x");
        at += TABLE->inputs[x].bytes;
        check(cuMemcpyHtoDAsync(p.inputs[y], batches + at, TABLE->inputs[y].bytes, p.stream), "y");
        at += TABLE->inputs[y].bytes;
        run(&p);
        check(cuMemcpyDtoHAsync(&value, p.outputs[loss], sizeof value, p.stream), "loss");
        check(cuStreamSynchronize(p.stream), "step");
        printf("%.6f\n", value);
    }
    free(ptx);
    free(first);
    free(batches);
    free(p.functions);
    free(p.inputs);
    free(p.outputs);
    return 0;
}
