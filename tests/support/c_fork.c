// A process that uses the library forks: every call of the children is refused, nothing hangs, and the parent's machine
// stays as it is. Exits 0 if so, else prints the line that failed.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vector_boot.h"

#define THREADS 4
#define FORKS 40

#define CHECK(condition)                                                                               \
    do {                                                                                               \
        if (!(condition)) {                                                                            \
            fprintf(stderr, "line %d: %s (last error: %s)\n", __LINE__, #condition, neural_last_error()); \
            _exit(1);                                                                                  \
        }                                                                                              \
    } while (0)
#define REFUSED(call) CHECK(!(call) && strstr(neural_last_error(), "was forked from process"))

static char reply[1 << 16];

static char *ask(const char *line) {
    size_t len;
    uint8_t *answer = neural_request((const uint8_t *)line, strlen(line), &len);
    CHECK(answer && len < sizeof reply);
    memcpy(reply, answer, len);
    reply[len] = 0;
    neural_free(answer);
    return reply;
}

static void mutate(int number) {
    char line[400];
    snprintf(line, sizeof line,
             "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"mutate\",\"params\":{\"id\":\"%032x\",\"base_generation\":%d,"
             "\"confidence\":0.9,\"edits\":[{\"kind\":\"seeded\",\"tensors\":\"blk.*.weight\",\"seed\":\"%016x\","
             "\"form\":\"normal\",\"density\":0.5,\"scale\":0.5}]}}\n",
             number, number - 1, number);
    CHECK(strstr(ask(line), "\"generation\":"));
}

static void digest(char *out) {
    char *found = strstr(ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"digest\",\"params\":{\"tensors\":[]}}\n"), "\"model\":\"");
    CHECK(found);
    memcpy(out, found + 9, 64);
}

static uint64_t generation(void) {
    NeuralStats s = {.size = sizeof s};
    CHECK(neural_get_stats(&s) == 1);
    return s.generation;
}

// Every function, in a child. A call that hangs ends with SIGALRM.
static void in_child(void *inherited) {
    size_t len;
    Pixel pixel = {250, 0x0A, 0};
    NeuralStats s = {.size = sizeof s};
    const char *line = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rollback\",\"params\":{\"id\":\"f\",\"to\":0}}\n";
    alarm(60);
    REFUSED(neural_execute_pixels(&pixel, 1));
    REFUSED(neural_get_result(&len));
    REFUSED(neural_get_stats(&s));
    REFUSED(neural_data_layout(&len));
    REFUSED(neural_tensor("hw.mmio", &len));
    REFUSED(neural_request((const uint8_t *)line, strlen(line), &len));
    REFUSED(neural_interrupt(1));
    REFUSED(neural_init());
    REFUSED(neural_load("/nonexistent"));
    REFUSED(neural_load_shared(NULL, 0, 0, 0));
    neural_free(inherited); // the child's copy of memory that the parent still holds
    neural_cleanup();
    REFUSED(neural_init());
    exit(0); // with everything that runs at the end of a process
}

static void fork_once(void *inherited) {
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) in_child(inherited);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static atomic_int stop;

// Keeps the library's locks busy.
static void *work(void *unused) {
    while (!atomic_load(&stop)) {
        size_t len;
        neural_free(neural_data_layout(&len));
        CHECK(neural_interrupt(7) == 1);
    }
    return unused;
}

int main(void) {
    char before[64], after[64];
    size_t len;
    pthread_t threads[THREADS];
    CHECK(neural_init() == 1);
    mutate(1);
    digest(before);
    void *inherited = neural_data_layout(&len);
    fork_once(inherited);
    CHECK(generation() == 1);
    digest(after);
    CHECK(memcmp(before, after, 64) == 0);
    for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, NULL) == 0);
    for (int i = 0; i < FORKS; i++) fork_once(inherited);
    atomic_store(&stop, 1);
    for (long i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    digest(after);
    CHECK(memcmp(before, after, 64) == 0 && generation() == 1);
    // The journal is sound: a mutation and the way back.
    mutate(2);
    CHECK(generation() == 2);
    CHECK(strstr(ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rollback\",\"params\":"
                     "{\"id\":\"00000000000000000000000000000009\",\"to\":1}}\n"), "\"generation\":3"));
    digest(after);
    CHECK(memcmp(before, after, 64) == 0);
    neural_free(inherited);
    neural_cleanup();
    return 0;
}
