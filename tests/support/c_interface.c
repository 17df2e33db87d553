// Correct and wrong use of every function of the C interface. Exits 0 if all is as vector_boot.h says, else prints the
// line that failed.
//   c_interface MODEL BAD_MODEL
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vector_boot.h"

#define CHECK(condition)                                                                               \
    do {                                                                                               \
        if (!(condition)) {                                                                            \
            fprintf(stderr, "line %d: %s (last error: %s)\n", __LINE__, #condition, neural_last_error()); \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)
#define FAILS(call, text) CHECK(!(call) && strstr(neural_last_error(), text))

static char reply[1 << 21];
static size_t reply_len;

// Sends a line and a blob; the reply, NUL-terminated, is in `reply`.
static void ask_with(const char *line, const void *blob, size_t blob_len) {
    size_t n = strlen(line);
    uint8_t *message = malloc(n + 1 + blob_len);
    memcpy(message, line, n);
    message[n] = '\n';
    if (blob_len) memcpy(message + n + 1, blob, blob_len);
    uint8_t *answer = neural_request(message, n + 1 + blob_len, &reply_len);
    CHECK(answer != NULL && reply_len < sizeof reply);
    memcpy(reply, answer, reply_len);
    reply[reply_len] = 0;
    neural_free(answer);
    free(message);
}

static void ask(const char *line) { ask_with(line, NULL, 0); }

static NeuralStats stats(void) {
    NeuralStats s = {.size = sizeof s};
    CHECK(neural_get_stats(&s) == 1 && s.size == sizeof s && s.version == 1);
    return s;
}

static void before_anything(void) {
    size_t len = 7;
    CHECK(neural_last_error() != NULL && *neural_last_error() == 0);
    Pixel pixel = {1, 2, 3};
    NeuralStats s = {.size = sizeof s};
    FAILS(neural_execute_pixels(&pixel, 1), "neural_init");
    FAILS(neural_get_result(&len), "neural_init");
    FAILS(neural_get_stats(&s), "neural_init");
    FAILS(neural_data_layout(&len), "neural_init");
    FAILS(neural_tensor("hw.mmio", &len), "neural_init");
    FAILS(neural_request((const uint8_t *)"{}\n", 3, &len), "neural_init");
    FAILS(neural_interrupt(1), "neural_init");
    neural_free(NULL);
    neural_cleanup();
}

static void misuse(void) {
    size_t len;
    size_t lengths[2];
    size_t *misaligned = (size_t *)((char *)lengths + 1);
    Pixel pixel = {1, 2, 3};
    FAILS(neural_load(NULL), "path is NULL");
    FAILS(neural_load("/nonexistent/model"), "cannot be opened");
    FAILS(neural_load("\xff\xfe"), "cannot be opened"); // any bytes are a file name
    FAILS(neural_tensor("\xff\xfe", &len), "UTF-8");
    FAILS(neural_load("/"), "neither a regular file");
    char *long_text = malloc(1 << 16);
    memset(long_text, 'a', (1 << 16) - 1);
    long_text[(1 << 16) - 1] = 0;
    FAILS(neural_load(long_text), "longer than");
    FAILS(neural_tensor(long_text, &len), "longer than");
    free(long_text);
    FAILS(neural_execute_pixels(NULL, 1), "p is NULL");
    FAILS(neural_execute_pixels(NULL, 0), "p is NULL");
    FAILS(neural_execute_pixels(&pixel, (size_t)-1), "more than");
    FAILS(neural_execute_pixels(&pixel, (size_t)-1 / 3 + 1), "more than");
    FAILS(neural_execute_pixels(&pixel, 349526), "more than");
    FAILS(neural_get_result(NULL), "len is NULL");
    FAILS(neural_get_result(misaligned), "aligned");
    FAILS(neural_get_result(&len), "no pixel program");
    FAILS(neural_get_stats(NULL), "s is NULL");
    char memory[sizeof(NeuralStats) + 8];
    FAILS(neural_get_stats((NeuralStats *)(memory + 1)), "aligned");
    NeuralStats s = {.size = 0};
    FAILS(neural_get_stats(&s), "sizeof");
    s.size = 7;
    FAILS(neural_get_stats(&s), "sizeof");
    s.size = 0xdeadbeef;
    FAILS(neural_get_stats(&s), "sizeof");
    FAILS(neural_data_layout(NULL), "len is NULL");
    FAILS(neural_data_layout(misaligned), "aligned");
    FAILS(neural_tensor(NULL, &len), "name is NULL");
    FAILS(neural_tensor("token_embd.weight", NULL), "bytes is NULL");
    FAILS(neural_tensor("token_embd.weight", misaligned), "aligned");
    FAILS(neural_tensor("frob", &len), "no tensor \"frob\"");
    FAILS(neural_tensor("", &len), "no tensor");
    FAILS(neural_request(NULL, 3, &len), "msg is NULL");
    FAILS(neural_request((const uint8_t *)"{}\n", 3, NULL), "reply_len is NULL");
    FAILS(neural_request((const uint8_t *)"{}\n", 3, misaligned), "aligned");
    FAILS(neural_request((const uint8_t *)"{}\n", (size_t)-1, &len), "more than");
    FAILS(neural_load_shared(NULL, -1, -1, -1), "descriptor -1");
    FAILS(neural_load_shared(NULL, 0x7fffffff, 0, 0), "weights");
    // Files that are not sealed, or of another size, are not mapped.
    int files[3];
    for (int i = 0; i < 3; i++) files[i] = memfd_create("unsealable", MFD_CLOEXEC);
    FAILS(neural_load_shared(NULL, files[0], files[1], files[2]), "words");
    CHECK(ftruncate(files[2], 4096) == 0);
    FAILS(neural_load_shared(NULL, files[0], files[1], files[2]), "words");
    for (int i = 0; i < 3; i++) close(files[i]);
    CHECK(stats().generation == 0); // none of these calls changed anything
}

static void messages(void) {
    ask("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"hello\",\"params\":{\"protocol\":1,\"client\":\"c\"}}");
    CHECK(strstr(reply, "\"id\":7") && strstr(reply, "\"generation\":0") && reply[reply_len - 1] == '\n');
    ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"frob\"}");
    CHECK(strstr(reply, "-32601"));
    ask("nonsense");
    CHECK(strstr(reply, "-32700") && strstr(reply, "\"id\":null"));
    ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"stats\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"stats\"}");
    CHECK(strstr(reply, "-32600") && !strstr(reply, "uptime"));
    ask("\xff{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"stats\"}");
    CHECK(strstr(reply, "{\"vector_boot\":") == reply && strstr(reply, "uptime"));
    CHECK(neural_interrupt(9) == 1);
    ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"interrupt\",\"params\":{\"vector\":255}}");
    CHECK(stats().interrupts == 2);
}

// A dense edit sets one F16 weight, which is seen in memory; a rollback restores it.
static void mutation(void) {
    size_t bytes;
    const uint8_t *weights = neural_tensor("token_embd.weight", &bytes);
    CHECK(weights && bytes == 409 * 64 * 2);
    uint8_t first = weights[0];
    ask_with("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"mutate\",\"params\":{\"id\":\"0123456789abcdef0123456789abcdef\","
             "\"base_generation\":0,\"confidence\":0.9,\"edits\":[{\"kind\":\"dense\",\"tensor\":\"token_embd.weight\","
             "\"offset\":0,\"blob\":[0,2]}]},\"blob\":{\"bytes\":2,\"crc32c\":\"27c41f1a\"}}", "\x55\x2a", 2);
    CHECK(strstr(reply, "\"generation\":1"));
    weights = neural_tensor("token_embd.weight", &bytes);
    CHECK(weights[0] == 0x55 && weights[1] == 0x2a);
    NeuralStats s = stats();
    CHECK(s.generation == 1 && s.mutations_accepted == 1 && s.changed_bytes == 2 && s.tensor_bytes > bytes);
    NeuralStats small = {.size = 40, .mutations_accepted = 77};
    CHECK(neural_get_stats(&small) == 1 && small.size == 40 && small.generation == 1 && small.mutations_accepted == 77);
    CHECK(neural_init() == 1 && stats().generation == 1); // idempotent: nothing is loaded again
    ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rollback\",\"params\":{\"id\":\"00000000000000000000000000000001\",\"to\":0}}");
    weights = neural_tensor("token_embd.weight", &bytes);
    CHECK(weights[0] == first && stats().changed_bytes == 0 && stats().generation == 2);
    size_t page_bytes, ring_bytes;
    const int32_t *page = neural_tensor("hw.mmio", &page_bytes);
    const char *ring = neural_tensor("cortex_journal", &ring_bytes);
    CHECK(page[0] == 0x56424F54 && page[11] == 2 && page_bytes == 4096);
    CHECK(memcmp(ring, "CJ01", 4) == 0 && ring_bytes == 1 << 20);
}

// A program with output, one without, and one with a fault.
static void programs(void) {
    size_t len = 1;
    uint64_t before = stats().programs;
    Pixel program[] = {{1, 2, 3}, {250, 0x02, 0}, {250, 0x0D, 0}};
    CHECK(neural_execute_pixels(program, 3) == 1);
    float *result = (float *)neural_get_result(&len);
    CHECK(result && len == 12 && result[0] == 1 && result[1] == 2 && result[2] == 3);
    neural_free(result);
    Pixel pop_of_nothing = {250, 0x0B, 0};
    CHECK(neural_execute_pixels(&pop_of_nothing, 1) == 0 && *neural_last_error());
    CHECK((result = (float *)neural_get_result(&len)) && len == 12);
    neural_free(result);
    CHECK(neural_execute_pixels(program, 1) == 1);
    CHECK((result = (float *)neural_get_result(&len)) && len == 0);
    neural_free(result);
    CHECK(stats().programs == before + 2 && stats().pixels_processed > 0);
}

static void layout(void) {
    size_t len;
    char *json = (char *)neural_data_layout(&len);
    CHECK(json && len > 1000 && json[0] == '[' && json[len - 1] == ']');
    CHECK(memmem(json, len, "\"kernel.0\"", 10) && memmem(json, len, "\"offset\":", 9));
    neural_free(json);
}

static void replacing(const char *model, const char *bad) {
    size_t bytes;
    CHECK(neural_interrupt(1) == 1);
    FAILS(neural_load(bad), bad);
    CHECK(stats().interrupts == 1); // the loaded model stays
    CHECK(neural_load(model) == 1);
    CHECK(stats().interrupts == 0 && neural_tensor("kernel.7", &bytes) && bytes == 4096);
}

static void shared(void) {
    int files[3];
    for (int i = 0; i < 3; i++) files[i] = memfd_create("shared", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(neural_load_shared(NULL, files[0], files[1], files[2]) == 1);
    CHECK(neural_interrupt(1) == 1 && stats().interrupts == 1);
    neural_cleanup();
    CHECK(neural_load_shared(NULL, files[0], files[1], files[2]) == 1);
    CHECK(stats().interrupts == 1);
    CHECK(ftruncate(files[0], 0) != 0 && ftruncate(files[2], 0) != 0); // sealed
    for (int i = 0; i < 3; i++) close(files[i]);
    CHECK(stats().interrupts == 1);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    before_anything();
    CHECK(neural_init() == 1 && neural_init() == 1);
    misuse();
    messages();
    mutation();
    programs();
    layout();
    neural_cleanup();
    CHECK(neural_interrupt(1) == 0);
    CHECK(neural_init() == 1);
    replacing(argv[1], argv[2]);
    shared();
    neural_cleanup();
    neural_cleanup();
    return 0;
}
