/* Runs the effect sample by sample on a real-time thread, as an audio callback would, and measures how long blocks take.
 *
 *     ./realtime [seconds]
 *
 * A block of 64 samples at 48 kHz has to be ready every 1,333 microseconds. The effect allocates nothing, locks nothing and
 * calls nothing, so its time depends on the machine alone.
 */
#define _GNU_SOURCE
#include "effect.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { BLOCK = 64, RATE = 48000 };

typedef struct run {
    int blocks, real_time;
    double *microseconds;  /* of each block */
    double error, power;   /* sums of squares */
} run;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static void *callback(void *argument) {
    static float state[EFFECT_STEP_H_SIZE];
    static _Alignas(EFFECT_WORKSPACE_ALIGNMENT) unsigned char workspace[EFFECT_WORKSPACE_BYTES + 1];
    graphc_context context = {GRAPHC_ABI_VERSION, 0, sizeof workspace, NULL, NULL};
    run *r = argument;
    double wanted = 0;
    int block, i;
    context.isa = (uint32_t)effect_cpu();
    for (block = 0; block < r->blocks; block++) {
        float in[BLOCK], out[BLOCK];
        double begin;
        for (i = 0; i < BLOCK; i++) {
            double t = (double)(block * BLOCK + i) / RATE;
            in[i] = (float)(0.4 * (sin(6.28318 * 440 * t) + 0.5 * sin(6.28318 * 659.3 * t)));
        }
        begin = now();
        for (i = 0; i < BLOCK; i++)
            if (effect_step(state, in + i, out + i, workspace, &context) != GRAPHC_SUCCESS) exit(1);
        r->microseconds[block] = now() - begin;
        for (i = 0; i < BLOCK; i++) {
            wanted = 0.7 * wanted + 0.3 * tanh(4 * in[i] + 0.8 * wanted);
            r->error += (out[i] - wanted) * (out[i] - wanted);
            r->power += wanted * wanted;
        }
    }
    return NULL;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 10;
    run r = {(int)(seconds * RATE / BLOCK), 1, NULL, 0, 0};
    struct sched_param priority = {.sched_priority = 60};
    pthread_attr_t attributes;
    pthread_t thread;
    if (r.blocks < 1) {
        fprintf(stderr, "usage: realtime [seconds]\n");
        return 2;
    }
    r.microseconds = malloc((size_t)r.blocks * sizeof *r.microseconds);
    if (r.microseconds == NULL) return 1;
    mlockall(MCL_CURRENT | MCL_FUTURE);
    pthread_attr_init(&attributes);
    pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
    pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
    pthread_attr_setschedparam(&attributes, &priority);
    if (pthread_create(&thread, &attributes, callback, &r) != 0) { /* not allowed: an ordinary thread, with worse extremes */
        r.real_time = 0;
        if (pthread_create(&thread, NULL, callback, &r) != 0) return 1;
    }
    pthread_join(thread, NULL);
    qsort(r.microseconds, (size_t)r.blocks, sizeof *r.microseconds, ascending);
    printf("%d blocks of %d samples on %s thread\n", r.blocks, BLOCK, r.real_time ? "a real-time" : "an ordinary");
    printf("a block takes %.1f us (median), %.1f us (99.9 %%), %.1f us (worst); it has %.1f us\n",
           r.microseconds[r.blocks / 2], r.microseconds[(int)(0.999 * r.blocks)], r.microseconds[r.blocks - 1],
           1e6 * BLOCK / RATE);
    printf("a sample takes %.0f ns; error to signal: %.1f dB\n", 1e3 * r.microseconds[r.blocks / 2] / BLOCK,
           10 * log10(r.error / r.power));
    free(r.microseconds);
    return 0;
}
