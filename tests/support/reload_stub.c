/* An executable that passes the probe run of a reload, or fails in it, and then fails as a worker.

   cc -static -DPROBE=... -DWORKER=... reload_stub.c

   Messages to the supervisor have 256 bytes: the kind, a u32 at 4, a u64 at 8. Descriptor 3 is the socket to it, and that
   to the old worker is descriptor 6. */
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TENSORS_READY = 3, PROBED = 11, STANDBY = 12, TOOK_OVER = 15 };

static void say(uint8_t kind, uint32_t small, uint64_t number)
{
    uint8_t message[256] = {kind};
    memcpy(message + 4, &small, 4);
    memcpy(message + 8, &number, 8);
    send(3, message, sizeof message, 0);
}

static void hang(void)
{
    for (;;)
        pause();
}

static void crash(void)
{
    abort();
}

static void be_ready(void)
{
    say(TENSORS_READY, 0, 1);
    say(STANDBY, 0, 0);
}

/* Waits until the old worker has sent its state. */
static void wait_for_state(void)
{
    struct pollfd link = {.fd = 6, .events = POLLIN};
    poll(&link, 1, -1);
}

int main(int count, char **words)
{
    if (count > 1 && strcmp(words[1], "--probe-worker") == 0) {
        PROBE;
        return 0;
    }
    WORKER;
    return 0;
}
