// A machine inside a C program: loads a model and prints how alike texts are.
//   embed MODEL TEXT TEXT...
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vector_boot.h"

// Appends `text` to `out` as the inside of a JSON string.
static char *escaped(char *out, const char *text) {
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') *out++ = '\\';
        if ((unsigned char)*text < 0x20)
            out += sprintf(out, "\\u%04x", *text);
        else
            *out++ = *text;
    }
    return out;
}

// Sends the request `embed` for `count` texts. Returns `count` times `*dim` floats, to be freed, or NULL with a message.
static float *embed(int count, char **texts, size_t *dim) {
    size_t room = 128;
    for (int i = 0; i < count; i++) room += 6 * strlen(texts[i]) + 3;
    char *line = malloc(room), *end = line;
    if (!line) return NULL;
    end += sprintf(end, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"embed\",\"params\":{\"texts\":[");
    for (int i = 0; i < count; i++) {
        end += sprintf(end, i ? ",\"" : "\"");
        end = escaped(end, texts[i]);
        *end++ = '"';
    }
    end += sprintf(end, "]}}\n");

    size_t length;
    uint8_t *reply = neural_request((const uint8_t *)line, (size_t)(end - line), &length);
    free(line);
    if (!reply) {
        fprintf(stderr, "embed: %s\n", neural_last_error());
        return NULL;
    }
    // The reply is a line of JSON and, behind it, the embeddings as little-endian floats.
    uint8_t *newline = memchr(reply, '\n', length);
    size_t bytes = length - (size_t)(newline + 1 - reply);
    float *vectors = NULL;
    if (bytes == 0) {
        fprintf(stderr, "embed: %.*s\n", (int)(newline - reply), (const char *)reply); // the error
    } else if ((vectors = malloc(bytes))) {
        memcpy(vectors, newline + 1, bytes);
        *dim = bytes / sizeof(float) / (size_t)count;
    }
    neural_free(reply);
    return vectors;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: embed MODEL TEXT TEXT...\n");
        return 2;
    }
    if (!neural_load(argv[1])) {
        fprintf(stderr, "embed: %s\n", neural_last_error());
        return 1;
    }
    int count = argc - 2;
    size_t dim = 0;
    float *vectors = embed(count, argv + 2, &dim);
    if (!vectors) return 1;
    for (int i = 1; i < count; i++) {
        double cosine = 0; // embeddings have length one
        for (size_t k = 0; k < dim; k++) cosine += (double)vectors[k] * vectors[(size_t)i * dim + k];
        printf("%.4f  %s\n", cosine, argv[2 + i]);
    }
    free(vectors);
    neural_cleanup();
    return 0;
}
