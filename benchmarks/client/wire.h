/* What the load clients share: sockets of loopback, templates, settings, and the frames of RFC 6455. */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "samples.h"

/* The example of RFC 6455, so that the right answer is known. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

/* What @C, @N or @S, @P and @T stand for in a template; `padding` is a number of bytes. */
typedef struct { int channel; uint32_t number; size_t padding; uint64_t time; } Values;

typedef struct { const char *name, *format; void *to; } Setting;

/*
 * Returns -1 when nobody listens. From several addresses, as clients come: `part` chooses one. A server bounds the
 * handshakes of one, and free ports are found fast.
 */
static int open_socket(int port, int part, bool blocking) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK), 0);
    if (fd < 0) err(1, "socket");
    struct linger reset = {1, 0}; /* leaves no TIME_WAIT behind */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    uint32_t source = INADDR_LOOPBACK + 1 + (uint32_t)part;
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (void *)&from, sizeof from)) err(1, "bind");
    if (!connect(fd, (void *)&to, sizeof to) || errno == EINPROGRESS) return fd;
    close(fd);
    return -1;
}

/* Writes `template` with its tokens replaced; returns the length. */
static size_t expand(char *to, size_t space, const char *template, Values values) {
    size_t n = 0;
    for (const char *p = template; *p; p++) {
        if (n + values.padding + 32 > space) errx(1, "a message is larger than %zu bytes", space);
        if (*p != '@' || !p[1] || !strchr("CNPST", p[1])) to[n++] = *p;
        else if (*++p == 'C') n += (size_t)sprintf(to + n, "%d", values.channel);
        else if (*p == 'N' || *p == 'S') n += (size_t)sprintf(to + n, "%u", values.number);
        else if (*p == 'T') n += (size_t)sprintf(to + n, "%lu", (unsigned long)values.time);
        else memset(to + n, 'x', values.padding), n += values.padding;
    }
    to[n] = 0;
    return n;
}

/* Reads the head of a frame; returns its length, or 0 while it or its payload is incomplete. */
static size_t frame_head(const uint8_t *f, size_t n, size_t *size) {
    if (n < 2) return 0;
    size_t head = 2;
    *size = f[1] & 127;
    if (*size == 126) head = 4, *size = n < 4 ? 0 : (size_t)f[2] << 8 | f[3];
    else if (*size == 127)
        head = 10, *size = n < 10 ? 0 : (size_t)f[6] << 24 | (size_t)f[7] << 16 | (size_t)f[8] << 8 | f[9];
    return n < head || n - head < *size ? 0 : head;
}

/* Answers a ping; returns whether the socket took it. */
static bool pong(int fd, const uint8_t *p, size_t n) {
    uint8_t frame[6 + 125] = {0x8a, (uint8_t)(0x80 | n)}; /* masked with zeros */
    memcpy(frame + 6, p, n);
    return send(fd, frame, n + 6, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

static void set(const Setting *settings, size_t count, char *text) {
    size_t length = strcspn(text, "=");
    for (size_t i = 0; text[length] && i < count; i++)
        if (strlen(settings[i].name) == length && !strncmp(text, settings[i].name, length))
            if (sscanf(text + length + 1, settings[i].format, settings[i].to) == 1) return;
    errx(1, "unknown setting %s", text);
}
