/* Trains a network on a Cortex-M4 with 256 KB of flash and 128 KB of memory: no operating system, no C library, no heap.
   What it prints goes to the debugger by semihosting, which QEMU understands. */
#include "digits.h"
#include "rows.h" /* ROWS, TESTED, row_pixels[ROWS][64] of 0..16, row_labels[ROWS], row_mean[64] */

#include <stdint.h>

enum { BATCH = 16, FEATURES = 64, CLASSES = 10, EPOCHS = 12 };

static float weight0[DIGITS_INIT_PARAMS_0_WEIGHT_SIZE], bias0[DIGITS_INIT_PARAMS_0_BIAS_SIZE];
static float weight2[DIGITS_INIT_PARAMS_2_WEIGHT_SIZE], bias2[DIGITS_INIT_PARAMS_2_BIAS_SIZE];
static float momentum_weight0[DIGITS_INIT_PARAMS_0_WEIGHT_SIZE], momentum_bias0[DIGITS_INIT_PARAMS_0_BIAS_SIZE];
static float momentum_weight2[DIGITS_INIT_PARAMS_2_WEIGHT_SIZE], momentum_bias2[DIGITS_INIT_PARAMS_2_BIAS_SIZE];
static float x[BATCH][FEATURES], scores[BATCH][CLASSES];
static int32_t y[BATCH];
static _Alignas(DIGITS_WORKSPACE_ALIGNMENT) unsigned char workspace[DIGITS_WORKSPACE_BYTES];

/* ------------------------------------------------------------------------------------------------ the debugger */

static long semihosting(long operation, const void *argument) {
    register long r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(const char *text) { semihosting(4, text); }

static void print_number(uint32_t number, uint32_t digits) {
    char text[12];
    uint32_t at = sizeof text - 1;
    text[at] = 0;
    do text[--at] = (char)('0' + number % 10);
    while (number /= 10, number || sizeof text - 1 - at < digits);
    print(text + at);
}

static void print_fixed(float value) { /* three places */
    uint32_t thousandths = (uint32_t)(value * 1000.0f + 0.5f);
    print_number(thousandths / 1000, 1);
    print(".");
    print_number(thousandths % 1000, 3);
}

__attribute__((noreturn)) static void leave(int well) {
    semihosting(0x18, well ? (void *)0x20026 : (void *)0);
    for (;;) {}
}

static void check(int32_t status) {
    if (status == GRAPHC_SUCCESS) return;
    print(digits_strerror(status));
    leave(0);
}

/* ---------------------------------------------------------------------------------------------------- training */

static void take(uint32_t slot, uint32_t row) {
    for (uint32_t i = 0; i < FEATURES; i++) x[slot][i] = (float)row_pixels[row][i] / 16.0f - row_mean[i];
    y[slot] = row_labels[row];
}

static float train_step(void) {
    const float rate = 0.05f;
    float loss;
    check(digits_train_step(weight0, bias0, weight2, bias2, momentum_weight0, momentum_bias0, momentum_weight2, momentum_bias2,
                            &rate, x[0], y, &loss, workspace, 0));
    return loss;
}

static uint32_t right_of_tested(void) {
    uint32_t right = 0;
    for (uint32_t start = ROWS - TESTED; start < ROWS; start += BATCH) {
        for (uint32_t i = 0; i < BATCH; i++) take(i, start + i);
        check(digits_predict(weight0, bias0, weight2, bias2, x[0], scores[0], workspace, 0));
        for (uint32_t i = 0; i < BATCH; i++) {
            int32_t best = 0;
            for (int32_t k = 1; k < CLASSES; k++)
                if (scores[i][k] > scores[i][best]) best = k;
            right += best == y[i];
        }
    }
    return right;
}

static void run(void) {
    const int64_t seed = 0;
    uint32_t random = 1;
    check(digits_init(&seed, weight0, bias0, weight2, bias2, momentum_weight0, momentum_bias0, momentum_weight2, momentum_bias2,
                      workspace, 0));
    for (uint32_t epoch = 1; epoch <= EPOCHS; epoch++) {
        float total = 0;
        uint32_t steps = (ROWS - TESTED) / BATCH;
        for (uint32_t step = 0; step < steps; step++) {
            for (uint32_t i = 0; i < BATCH; i++) {
                random = random * 1664525u + 1013904223u; /* Numerical Recipes, 3rd ed., section 7.1.6 */
                take(i, (random >> 8) % (ROWS - TESTED));
            }
            total += train_step();
        }
        print("epoch ");
        print_number(epoch, 1);
        print(": loss ");
        print_fixed(total / (float)steps);
        print("\n");
    }
    print("right: ");
    print_number(right_of_tested(), 1);
    print(" of ");
    print_number(TESTED, 1);
    print("\n");
    leave(1);
}

/* ----------------------------------------------------------------------------------------------------- the start */

extern char bss_begin[], bss_end[], stack_top[];

__attribute__((noreturn)) void reset(void) {
    for (volatile uint32_t *at = (volatile uint32_t *)bss_begin; at < (volatile uint32_t *)bss_end; at++) *at = 0;
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the floating-point unit is on */
    __asm__ volatile("dsb\n isb");
    run();
    leave(0);
}

__attribute__((noreturn)) static void fault(void) {
    print("fault\n");
    leave(0);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
