// Embeddings and mutations of the built-in model, printed as the replies that hold their checksums. Two builds of the
// library compute the same bits if their outputs are equal.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vector_boot.h"

// Sends a line and prints the line of the reply; without `show` only a failure is printed.
static void ask(const char *method, const char *params, int show) {
    char line[1024];
    size_t len;
    snprintf(line, sizeof line, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":%s}\n", method, params);
    uint8_t *reply = neural_request((const uint8_t *)line, strlen(line), &len);
    if (!reply) {
        fprintf(stderr, "%s: %s\n", method, neural_last_error());
        exit(1);
    }
    size_t end = (size_t)((uint8_t *)memchr(reply, '\n', len) - reply);
    int failed = !memmem(reply, end, "\"result\"", 8);
    if (show || failed) printf("%s %.*s\n", method, (int)end, (char *)reply);
    neural_free(reply);
    if (failed) exit(1);
}

static void state(void) {
    ask("embed", "{\"texts\":[\"A GGUF model that is a machine.\",\"\",\"Na\\u00efve caf\\u00e9, 12345!\"]}", 1);
    ask("digest", "{\"tensors\":[\"blk.0.attn_q.weight\",\"blk.1.ffn_up.weight\"]}", 1);
}

static void mutate(int number, const char *edit) {
    char params[700];
    snprintf(params, sizeof params, "{\"id\":\"%032d\",\"base_generation\":%d,\"confidence\":0.9,\"edits\":[%s]}", number,
             number - 1, edit);
    ask("mutate", params, 0);
    state();
}

int main(void) {
    if (neural_init() != 1) {
        fprintf(stderr, "%s\n", neural_last_error());
        return 1;
    }
    state();
    mutate(1, "{\"kind\":\"seeded\",\"tensors\":\"blk.*.weight\",\"seed\":\"00000000000000a1\",\"form\":\"normal\","
              "\"density\":0.5,\"scale\":0.25}");
    mutate(2, "{\"kind\":\"seeded\",\"tensors\":\"token_embd.weight\",\"seed\":\"00000000000000b2\",\"form\":\"normal\","
              "\"density\":0.01,\"scale\":0.125},{\"kind\":\"seeded\",\"tensors\":\"*norm.weight\",\"seed\":"
              "\"00000000000000c3\",\"form\":\"normal\",\"density\":1,\"scale\":0.0625}");
    Pixel program[] = {{250, 0x00, 0}, {1, 2, 3}, {4, 5, 6}, {250, 0x02, 0}, {250, 0x06, 1}, {250, 0x07, 3}, {250, 0x0D, 0}};
    size_t len;
    if (neural_execute_pixels(program, sizeof program / sizeof *program) != 1) {
        fprintf(stderr, "%s\n", neural_last_error());
        return 1;
    }
    uint8_t *output = neural_get_result(&len);
    for (size_t i = 0; i < len; i++) printf("%02x", output[i]);
    printf("\n");
    neural_free(output);
    ask("rollback", "{\"id\":\"00000000000000000000000000000009\",\"to\":0}", 0);
    state();
    neural_cleanup();
    return 0;
}
