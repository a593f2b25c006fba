/* Reads a drawn stroke with the compiled digits model: no Python, no framework, no malloc in it.
 *
 *   tfc compile examples/digits/digits.onnx -o digits.so
 *   cc -I. examples/digits/one.c ./digits.so -o one && ./one
 */
#include <stdio.h>
#include <stdlib.h>

#include "digits.h"

enum { SIZE = 28 };

int main(void) {
    static float image[SIZE][SIZE], probability[10];
    for (int row = 0; row < SIZE; row++) {
        for (int col = 0; col < SIZE; col++) {
            int ink = row >= 3 && row < 25 && col >= 12 && col < 16;
            image[row][col] = ((ink ? 255.0f : 0.0f) - 57.91f) / 84.1f; /* as the metadata says */
        }
    }
    digits_tensor input = {image, sizeof image, {1, 1, SIZE, SIZE}};
    digits_tensor output = {probability, sizeof probability, {0}};

    int64_t symbols[1]; /* the batch, bound from the input's dims */
    int32_t code = digits_shapes(&input, &output, symbols);
    if (code == 0) {
        digits_ctx ctx = {.threads = 1};
        ctx.workspace_bytes = digits_workspace_size(symbols, ctx.threads);
        /* Vector loads want whole cache lines; aligned_alloc wants a multiple of the alignment. */
        ctx.workspace = aligned_alloc(64, ((size_t)ctx.workspace_bytes + 64) / 64 * 64);
        code = digits_run(&ctx, &input, &output);
        free(ctx.workspace);
    }
    if (code != 0) {
        fprintf(stderr, "digits: error code %d\n", (int)code);
        return 1;
    }
    int best = 0;
    for (int digit = 1; digit < 10; digit++) {
        if (probability[digit] > probability[best]) best = digit;
    }
    printf("%d (%.1f%%)\n", best, 100 * probability[best]);
    return 0;
}
