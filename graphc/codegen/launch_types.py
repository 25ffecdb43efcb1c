"""The part of a launch table's C header that is the same in all of them: its types, and the function that runs a table.

In: nothing. Out: C text, clean under C99 and C++11. `graphc_perform` is `runtime.launches.perform` in C.
"""

TYPES = """\
#ifndef GRAPHC_LAUNCH_TABLE_H
#define GRAPHC_LAUNCH_TABLE_H

enum graphc_memory { GRAPHC_INPUT, GRAPHC_OUTPUT, GRAPHC_ARENA, GRAPHC_CONSTANT, GRAPHC_PORT };

/* Where a value is: the number of an input, output or port, or a byte offset in the arena or among the constants. A port
   is an address that a loop sets anew in each turn. */
typedef struct graphc_place {
    enum graphc_memory memory;
    uint64_t at;
} graphc_place;

enum graphc_kind { GRAPHC_LAUNCH, GRAPHC_COPY, GRAPHC_LOOP, GRAPHC_BRANCH };

/* A launch of kernels[kernel], whose parameters are the 64-bit addresses of its places; a copy of `bytes` bytes from
   places[0] to places[1]; a loop; or a branch. `loc` is the line of the program that it comes from, or "". */
typedef struct graphc_step {
    enum graphc_kind kind;
    uint32_t kernel, grid[3], block[3], shared_bytes;
    uint32_t place_count;
    const graphc_place *places;
    uint64_t bytes;
    const struct graphc_loop *loop;
    const struct graphc_branch *branch;
    const char *loc;
} graphc_step;

/* In turn t of a loop the port is stride * t bytes behind `place`. */
typedef struct graphc_slice {
    uint32_t port;
    graphc_place place;
    uint64_t stride;
} graphc_slice;

/* What one turn writes at a port and the next one reads at another. It is written to the two targets in turn; where there
   are none, the port is that of a slice. The first turn reads it at `first`; after the last one it is at `last`. */
typedef struct graphc_carry {
    uint32_t reads, writes;
    graphc_place first, last;
    uint32_t target_count;
    graphc_place targets[2];
    uint64_t bytes;
} graphc_carry;

/* Steps that run `count` times, last slice first where it is reversed; or, where `by_flag` is 1, as long as the byte at
   `flag`, which the condition's steps write, is not 0. */
typedef struct graphc_loop {
    uint32_t by_flag, reverse;
    uint64_t count;
    uint32_t slice_count, carry_count, condition_count, step_count;
    const graphc_slice *slices;
    const graphc_carry *carries;
    const graphc_step *condition, *steps;
    graphc_place flag;
} graphc_loop;

/* The steps `yes` where the byte at `flag` is not 0, else `no`. */
typedef struct graphc_branch {
    graphc_place flag;
    uint32_t yes_count, no_count;
    const graphc_step *yes, *no;
} graphc_branch;

/* An argument or output: `dtype` is NumPy's name of it. */
typedef struct graphc_array {
    const char *name, *dtype;
    uint64_t bytes;
    uint32_t rank;
    const uint64_t *shape;
} graphc_array;

/* The memory of this input becomes that of this output: pass one address for both. */
typedef struct graphc_donation {
    uint32_t input, output;
} graphc_donation;

typedef struct graphc_launch_table {
    const char *name;
    uint32_t input_count, output_count, donation_count, kernel_count, step_count;
    const graphc_array *inputs, *outputs;
    const graphc_donation *donations;
    const char *const *kernels;
    const graphc_step *steps;
    uint64_t arena_bytes, constant_bytes; /* both to be aligned to 64 bytes */
    uint32_t port_count, most_places;     /* of the loops; of one step */
} graphc_launch_table;

/* Where a table's memory is on the device, and what is done with addresses. The host gives room for `port_count` numbers
   at `ports` and for `most_places` at `addresses`. Its functions give 0, or a status that ends the run. */
typedef struct graphc_host {
    const uint64_t *inputs, *outputs;
    uint64_t arena, constants;
    uint64_t *ports, *addresses;
    void *user;
    int (*launch)(void *user, const graphc_step *step, uint64_t *addresses);
    int (*copy)(void *user, uint64_t from, uint64_t to, uint64_t bytes);
    int (*read)(void *user, uint64_t address, unsigned char *flag); /* one byte, once all work before it is done */
} graphc_host;

static inline uint64_t graphc_address(const graphc_host *host, graphc_place place)
{
    switch (place.memory) {
    case GRAPHC_INPUT: return host->inputs[place.at];
    case GRAPHC_OUTPUT: return host->outputs[place.at];
    case GRAPHC_ARENA: return host->arena + place.at;
    case GRAPHC_CONSTANT: return host->constants + place.at;
    default: return host->ports[place.at];
    }
}

static inline int graphc_perform_steps(const graphc_host *host, const graphc_step *steps, uint32_t count);

static inline int graphc_perform_loop(const graphc_host *host, const graphc_loop *loop)
{
    uint64_t turn, t;
    uint32_t k;
    int status;
    for (turn = 0; loop->by_flag || turn < loop->count; turn++) {
        for (k = 0; k < loop->carry_count; k++) {
            const graphc_carry *c = &loop->carries[k];
            host->ports[c->reads] = turn ? host->ports[c->writes] : graphc_address(host, c->first);
        }
        if (loop->by_flag) {
            unsigned char flag = 0;
            status = graphc_perform_steps(host, loop->condition, loop->condition_count);
            if (!status)
                status = host->read(host->user, graphc_address(host, loop->flag), &flag);
            if (status)
                return status;
            if (!flag)
                break;
        }
        t = loop->reverse ? loop->count - 1 - turn : turn;
        for (k = 0; k < loop->slice_count; k++)
            host->ports[loop->slices[k].port] = graphc_address(host, loop->slices[k].place) + t * loop->slices[k].stride;
        for (k = 0; k < loop->carry_count; k++)
            if (loop->carries[k].target_count)
                host->ports[loop->carries[k].writes] = graphc_address(host, loop->carries[k].targets[turn & 1]);
        status = graphc_perform_steps(host, loop->steps, loop->step_count);
        if (status)
            return status;
    }
    for (k = 0; k < loop->carry_count; k++) {
        const graphc_carry *c = &loop->carries[k];
        uint64_t from = turn ? host->ports[c->writes] : graphc_address(host, c->first);
        uint64_t to = graphc_address(host, c->last);
        if (from != to && (status = host->copy(host->user, from, to, c->bytes)) != 0)
            return status;
    }
    return 0;
}

static inline int graphc_perform_steps(const graphc_host *host, const graphc_step *steps, uint32_t count)
{
    uint32_t i, k;
    int status = 0;
    for (i = 0; i < count && !status; i++) {
        const graphc_step *s = &steps[i];
        if (s->kind == GRAPHC_LOOP) {
            status = graphc_perform_loop(host, s->loop);
            continue;
        }
        if (s->kind == GRAPHC_BRANCH) {
            const graphc_branch *b = s->branch;
            unsigned char flag = 0;
            status = host->read(host->user, graphc_address(host, b->flag), &flag);
            if (!status)
                status = flag ? graphc_perform_steps(host, b->yes, b->yes_count)
                              : graphc_perform_steps(host, b->no, b->no_count);
            continue;
        }
        for (k = 0; k < s->place_count; k++)
            host->addresses[k] = graphc_address(host, s->places[k]);
        status = s->kind == GRAPHC_COPY ? host->copy(host->user, host->addresses[0], host->addresses[1], s->bytes)
                                        : host->launch(host->user, s, host->addresses);
    }
    return status;
}

/* All steps of a table, in order: 0, or the status that ended them. */
static inline int graphc_perform(const graphc_launch_table *table, const graphc_host *host)
{
    return graphc_perform_steps(host, table->steps, table->step_count);
}

#endif
"""
