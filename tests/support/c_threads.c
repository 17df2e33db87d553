// Many threads call all functions at once while others load and clean up. Exits 0 if every call behaves as documented.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vector_boot.h"

#define THREADS 8

static int rounds;

static void die(const char *what) {
    fprintf(stderr, "%s (last error: %s)\n", what, neural_last_error());
    exit(1);
}

static char *ask(const char *line, size_t *len) {
    return (char *)neural_request((const uint8_t *)line, strlen(line), len);
}

// Without loads every interrupt is counted, and each thread has its own errors.
static void *count(void *which) {
    char name[32];
    for (int i = 0; i < rounds; i++) {
        size_t bytes;
        NeuralStats s = {.size = sizeof s};
        if (neural_init() != 1 || neural_interrupt((uint8_t)i) != 1 || neural_get_stats(&s) != 1) die("count");
        snprintf(name, sizeof name, "none.%ld.%d", (long)which, i);
        if (neural_tensor(name, &bytes) || !strstr(neural_last_error(), name)) die("another thread's error");
        char *reply = ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"digest\",\"params\":{\"tensors\":[\"kernel.0\"]}}\n", &bytes);
        if (!reply || !memchr(reply, '{', bytes)) die("digest");
        neural_free(reply);
    }
    return NULL;
}

// With loads and cleanups every call works or reports that no model is loaded.
static void *survive(void *which) {
    for (int i = 0; i < rounds; i++) {
        size_t len;
        Pixel pixel = {250, 0x0A, 0};
        if ((long)which == 0) neural_cleanup();
        if ((long)which == 1 && neural_init() != 1) die("init");
        char *reply = ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"mutate\",\"params\":{}}\n", &len);
        if (reply && !memchr(reply, '\n', len)) die("incomplete reply");
        neural_free(reply);
        neural_free(neural_data_layout(&len));
        neural_execute_pixels(&pixel, 1);
        neural_free(neural_get_result(&len));
        neural_interrupt(3);
    }
    return NULL;
}

static void run(void *(*work)(void *)) {
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i)) die("pthread_create");
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

int main(int argc, char **argv) {
    rounds = argc > 1 ? atoi(argv[1]) : 100;
    run(count); // the first calls compete to load the model: it is loaded once
    NeuralStats s = {.size = sizeof s};
    if (neural_get_stats(&s) != 1 || s.interrupts != (uint64_t)THREADS * rounds) die("interrupts were lost");
    run(survive);
    neural_cleanup();
    return 0;
}
