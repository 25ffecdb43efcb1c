/* Runs entries of a library on a machine without a C library, each on a painted stack, and prints what they made.

   In: "cases.h", which the test writes: the arrays and the table CASES. Out: for each case a line
   "name status stack-bytes", and for each output a line of its bytes in hexadecimal. The system is Linux (by its system
   calls) or none (an Arm debugger's semihosting, which QEMU has too). */
#include <stdint.h>

typedef int32_t entry(const void *const *inputs, void *const *outputs, void *workspace, const void *context);
struct output { const unsigned char *bytes; uint32_t size; };
struct one {
    const char *name;
    entry *run;
    const void *const *inputs;
    void *const *outputs;
    const struct output *shown;
    uint32_t count;
    const void *context;
};

#include "cases.h"

#define PAINTED 32768 /* bytes below the stack pointer */
#define PAINT 0xA5C35A3Cu

#if defined(__x86_64__)
#define STACK_POINTER(to) __asm__ volatile("mov %%rsp, %0" : "=r"(to))
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
#define WRITE 1
#define EXIT 60
#elif defined(__aarch64__)
#define STACK_POINTER(to) __asm__ volatile("mov %0, sp" : "=r"(to))
static long call(long number, long a, long b, long c) {
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
#define WRITE 64
#define EXIT 93
#elif defined(__riscv)
#define STACK_POINTER(to) __asm__ volatile("mv %0, sp" : "=r"(to))
static long call(long number, long a, long b, long c) {
    register long a7 __asm__("a7") = number, a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2) : "memory");
    return a0;
}
#define WRITE 64
#define EXIT 93
#elif defined(__arm__)
#define STACK_POINTER(to) __asm__ volatile("mov %0, sp" : "=r"(to))
static long semihosting(long operation, const void *argument) {
    register long r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
#define SYS_WRITE0 4
#define SYS_EXIT 0x18
#define EXITED_WELL 0x20026
#endif

static char line[256];
static uint32_t used;

static void flush(void) {
#if defined(__arm__)
    line[used] = 0;
    semihosting(SYS_WRITE0, line);
#else
    call(WRITE, 1, (long)line, used);
#endif
    used = 0;
}

static void put(char c) {
    line[used++] = c;
    if (used == sizeof line - 1) flush();
}

static void put_text(const char *text) {
    while (*text) put(*text++);
}

static void put_number(uint32_t number) {
    char digits[10];
    int count = 0;
    do digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (count) put(digits[--count]);
}

/* The deepest byte of the stack that the call changed. No other code runs on this stack, and what is below the stack
   pointer is nobody's, so that it can be painted; the call itself moves the pointer for nothing but its return address. */
__attribute__((noinline)) static int32_t painted(const struct one *one, uint32_t *deepest) {
    char *pointer;
    STACK_POINTER(pointer);
    for (uint32_t i = 4; i <= PAINTED; i += 4) *(volatile uint32_t *)(pointer - i) = PAINT;
    int32_t status = one->run(one->inputs, one->outputs, workspace, one->context);
    uint32_t untouched = PAINTED;
    while (untouched && *(volatile uint32_t *)(pointer - untouched) == PAINT) untouched -= 4;
    *deepest = untouched;
    return status;
}

static void run_all(void) {
    for (uint32_t i = 0; i < sizeof CASES / sizeof CASES[0]; ++i) {
        uint32_t deepest;
        int32_t status = painted(&CASES[i], &deepest);
        put_text(CASES[i].name);
        put(' ');
        put_number((uint32_t)status);
        put(' ');
        put_number(deepest);
        put('\n');
        for (uint32_t j = 0; j < CASES[i].count; ++j) {
            for (uint32_t k = 0; k < CASES[i].shown[j].size; ++k) {
                unsigned char byte = CASES[i].shown[j].bytes[k];
                put("0123456789abcdef"[byte >> 4]);
                put("0123456789abcdef"[byte & 15]);
            }
            put('\n');
        }
    }
    flush();
}

#if defined(__arm__)
extern char stack_top[];

__attribute__((noreturn)) void reset(void) {
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the floating-point unit is on */
    __asm__ volatile("dsb\n isb");
    run_all();
    semihosting(SYS_EXIT, (void *)EXITED_WELL);
    for (;;) {}
}

__attribute__((noreturn)) static void fault(void) {
    put_text("fault\n");
    flush();
    semihosting(SYS_EXIT, 0);
    for (;;) {}
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
#else
__attribute__((noreturn, used)) static void begin(void) {
    run_all();
    for (;;) call(EXIT, 0, 0, 0);
}

/* The kernel enters without a return address and with an aligned stack; compiled code expects that of a call. */
#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n and $-16, %rsp\n call begin\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n bl begin\n");
#else
__asm__(".globl _start\n_start:\n.option push\n.option norelax\n la gp, __global_pointer$\n.option pop\n call begin\n");
#endif
#endif
