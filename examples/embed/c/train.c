/* Trains the digits MLP from scratch with the exported training step, in C, without an allocation.
 *
 *     ./train FOLDER      reads FOLDER/digits.bin, prints what FOLDER/losses.txt has
 */
#include "digits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FEATURES = 64, CLASSES = 10, BATCH = 32, MOST_ROWS = 2048, MOST_EPOCHS = 256 };

typedef struct header {
    int32_t rows, train, epochs, seed;
} header;

/* The weights and the optimiser's state, in the order of the entry's arguments. */
typedef struct parameters {
    float weight0[DIGITS_TRAIN_STEP_PARAMS_0_WEIGHT_SIZE], bias0[DIGITS_TRAIN_STEP_PARAMS_0_BIAS_SIZE];
    float weight2[DIGITS_TRAIN_STEP_PARAMS_2_WEIGHT_SIZE], bias2[DIGITS_TRAIN_STEP_PARAMS_2_BIAS_SIZE];
    float weight4[DIGITS_TRAIN_STEP_PARAMS_4_WEIGHT_SIZE], bias4[DIGITS_TRAIN_STEP_PARAMS_4_BIAS_SIZE];
} parameters;

static parameters weights, momentum;
static float x[MOST_ROWS][FEATURES];
static int32_t labels[MOST_ROWS];
static int32_t order[MOST_EPOCHS][MOST_ROWS];
static _Alignas(DIGITS_WORKSPACE_ALIGNMENT) unsigned char workspace[DIGITS_WORKSPACE_BYTES];

static void read_exactly(void *to, size_t size, size_t count, FILE *file) {
    if (fread(to, size, count, file) != count) {
        fprintf(stderr, "digits.bin: expected more bytes\n");
        exit(1);
    }
}

static header read_data(const char *folder) {
    char path[1024];
    header head;
    FILE *file;
    int32_t epoch;
    snprintf(path, sizeof path, "%s/digits.bin", folder);
    file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "%s: expected the file that digits_library.py writes\n", path);
        exit(1);
    }
    read_exactly(&head, sizeof head, 1, file);
    if (head.rows > MOST_ROWS || head.train > head.rows || head.epochs > MOST_EPOCHS || head.train % BATCH != 0) {
        fprintf(stderr, "%s: expected other sizes\n", path);
        exit(1);
    }
    read_exactly(x, sizeof x[0], (size_t)head.rows, file);
    read_exactly(labels, sizeof labels[0], (size_t)head.rows, file);
    for (epoch = 0; epoch < head.epochs; epoch++)
        read_exactly(order[epoch], sizeof order[0][0], (size_t)head.train, file);
    fclose(file);
    return head;
}

static void check(int32_t status) {
    if (status != GRAPHC_SUCCESS) {
        fprintf(stderr, "digits: %s\n", digits_strerror(status));
        exit(1);
    }
}

/* First weights from the seed, and momentum of zero. */
static void init(int64_t seed, const graphc_context *context) {
    check(digits_init(&seed, weights.weight0, weights.bias0, weights.weight2, weights.bias2, weights.weight4, weights.bias4,
                      momentum.weight0, momentum.bias0, momentum.weight2, momentum.bias2, momentum.weight4, momentum.bias4,
                      workspace, context));
}

static float train_step(const int32_t *rows, const graphc_context *context) {
    static float batch[BATCH][FEATURES];
    static int32_t targets[BATCH];
    const float rate = 0.05f;
    float loss;
    int i;
    for (i = 0; i < BATCH; i++) {
        memcpy(batch[i], x[rows[i]], sizeof batch[i]);
        targets[i] = labels[rows[i]];
    }
    check(digits_train_step(weights.weight0, weights.bias0, weights.weight2, weights.bias2, weights.weight4, weights.bias4,
                            momentum.weight0, momentum.bias0, momentum.weight2, momentum.bias2, momentum.weight4,
                            momentum.bias4, &rate, batch[0], targets, &loss, workspace, context));
    return loss;
}

static double accuracy(int32_t first, int32_t last, const graphc_context *context) {
    static float batch[BATCH][FEATURES], scores[BATCH][CLASSES];
    int32_t start, right = 0;
    for (start = first; start < last; start += BATCH) {
        int32_t count = last - start < BATCH ? last - start : BATCH, i, k;
        memcpy(batch, x[start], (size_t)count * sizeof x[0]); /* the rest of the last batch does not matter */
        check(digits_predict(weights.weight0, weights.bias0, weights.weight2, weights.bias2, weights.weight4, weights.bias4,
                             batch[0], scores[0], workspace, context));
        for (i = 0; i < count; i++) {
            int32_t best = 0;
            for (k = 1; k < CLASSES; k++)
                if (scores[i][k] > scores[i][best]) best = k;
            right += best == labels[start + i];
        }
    }
    return (double)right / (last - first);
}

int main(int argc, char **argv) {
    header head = read_data(argc > 1 ? argv[1] : ".");
    graphc_context context = {GRAPHC_ABI_VERSION, 0, sizeof workspace, NULL, NULL};
    int32_t epoch, start;
    context.isa = (uint32_t)digits_cpu();
    init(head.seed, &context);
    for (epoch = 0; epoch < head.epochs; epoch++) {
        double total = 0;
        for (start = 0; start < head.train; start += BATCH) total += train_step(order[epoch] + start, &context);
        printf("epoch %d: loss %.9g\n", epoch + 1, total / (head.train / BATCH));
    }
    printf("test accuracy: %.4f\n", accuracy(head.train, head.rows, &context));
    return 0;
}
