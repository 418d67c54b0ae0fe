/*
 * fanclient: many subscribers and a few HTTP publishers in one thread, for the benchmarks beside it.
 *
 *   fanclient [name=value]...     A line on stdin is a command, with more settings; a line of JSON answers it.
 *   connect     open `subs` subscribers, spread over `channels` from 0 on, and `idle` more, each on a channel of its own
 *               after those; with `held`, done when every subscriber has all messages that are held
 *   run         publish to each of `channels` in turn, for `seconds` or `count` messages; done when all have been delivered
 *
 *   port, push_port     of 127.0.0.1; push_port 0 means the same port
 *   path, push          targets of the subscribers and of POST; @C stands for the channel's number, and in a path @S for
 *                       the offset after which this subscriber resumes
 *   held, missed        so many messages, numbered from 0, are in the log of channel 0 before the subscribers come; a
 *                       subscriber resumes after one of the last `missed`. Without @S it gets only what is new
 *   sse                 1: the subscribers read Server-Sent Events, each a chunk of HTTP/1.1; 0: they are WebSockets
 *   body, header        of POST; @N stands for the message's number, which must arrive as "n":<number>, and @P for
 *                       padding up to `size` bytes
 *   items               0: a push has one message; else it has an array of so many, each written as `body`
 *   ask                 more lines of each subscriber's request, without the last line's end
 *   tokens              a file of tokens, one a line, of which each subscriber's request carries the next
 *   stalled, inflight   so many of the subscribers never read; so many handshakes are under way at once
 *   pubs, rate          publisher connections; messages a second, each due at its time. 0 is a closed loop: with
 *   lockstep=1          every connection sends one at the same time, and the next when all subscribers have all; with
 *   lockstep=0          each sends its next as soon as its last is answered; of several channels, each gets its next
 *                       message when its subscribers have the one before
 *   patience            seconds without progress after which it has failed
 *
 * Every subscriber must get every message of its channel once, in the order in which the first of them got it; a single
 * publisher's, and those of each of several channels, in the order of their numbers. If not, or if a connection ends, it says why on stderr and its exit status is 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "samples.h"

enum { BUFFER = 1 << 18, EVENTS = 1024, CONNECTIONS = 1 << 16, PUBLISHERS = 256, MESSAGES = 1 << 22, ADDRESSES = 8 };

/* The example of RFC 6455, so that the right answer is known. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

static struct {
    int port, push_port, subs, channels, idle, stalled, inflight, pubs, items, lockstep, sse;
    char path[256], push[256], body[512], header[1024], tokens[256], ask[256];
    unsigned size, count, held, missed;
    double rate, seconds, patience;
} s = {.path = "/@C", .push = "/push/@C", .body = "{\"n\":@N,\"p\":\"@P\"}", .header = "Accept: */*", .channels = 1,
       .inflight = 100, .missed = 1, .pubs = 1, .lockstep = 1, .size = 128, .count = UINT32_MAX, .seconds = 1, .patience = 30};

static const struct { const char *name, *format; void *to; } settings[] = {
    {"port", "%d", &s.port}, {"push_port", "%d", &s.push_port}, {"path", "%255[^\n]", s.path},
    {"push", "%255[^\n]", s.push}, {"body", "%511[^\n]", s.body}, {"header", "%1023[^\n]", s.header},
    {"tokens", "%255[^\n]", s.tokens}, {"ask", "%255[^\n]", s.ask}, {"held", "%u", &s.held}, {"missed", "%u", &s.missed},
    {"subs", "%d", &s.subs}, {"channels", "%d", &s.channels}, {"items", "%d", &s.items}, {"idle", "%d", &s.idle}, {"stalled", "%d", &s.stalled}, {"inflight", "%d", &s.inflight},
    {"pubs", "%d", &s.pubs}, {"lockstep", "%d", &s.lockstep}, {"size", "%u", &s.size}, {"count", "%u", &s.count},
    {"sse", "%d", &s.sse}, {"rate", "%lf", &s.rate}, {"seconds", "%lf", &s.seconds}, {"patience", "%lf", &s.patience}};

typedef enum { CONNECTING, ASKING, OPEN, STALLED, PUBLISHER } State;

typedef struct {
    int fd, channel;
    State state;
    bool busy;       /* a publisher that waits for its answer */
    uint32_t got;    /* messages so far, and those before the one where it resumes */
    uint64_t began;  /* when it connected; a publisher: when its message was due */
    uint32_t kept;   /* bytes of an incomplete frame or answer, in keep */
    uint8_t *keep;
} Conn;

static int epoll;
static Conn conns[CONNECTIONS], pubs[PUBLISHERS];
static int n_conns, n_pubs, n_pending, n_open, n_current, receivers;
static uint8_t buffer[BUFFER + 16];

/* By number of the message: when it was due, and how many still lack it. By place in the common order: its number. */
static struct { uint64_t due; uint32_t lacking; } messages[MESSAGES];
static uint32_t order[MESSAGES], n_ordered, published, complete, pushed, answered;
static uint64_t delivered, progressed;
static Samples latency, last, push;

static void watch(Conn *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, operation, c->fd, &event)) err(1, "epoll_ctl");
}

/* From several addresses, as clients come: a server bounds the handshakes of one, and free ports are found fast. */
static int open_socket(int port, int number, bool blocking) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK), 0);
    if (fd < 0) err(1, "socket");
    struct linger reset = {1, 0}; /* leaves no TIME_WAIT behind */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    uint32_t source = INADDR_LOOPBACK + 1 + (uint32_t)(number % ADDRESSES);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (void *)&from, sizeof from)) err(1, "bind");
    if (connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS) err(1, "connect");
    return fd;
}

/* Writes `template` with its tokens replaced, @N and @S by `number`; returns the length. */
static size_t expand(char *to, size_t space, const char *template, int channel, uint32_t number, size_t padding) {
    size_t n = 0;
    for (const char *p = template; *p; p++) {
        if (n + padding + 16 > space) errx(1, "a message is larger than %zu bytes", space);
        if (*p != '@' || !p[1] || !strchr("CNPS", p[1])) to[n++] = *p;
        else if (*++p == 'C') n += (size_t)sprintf(to + n, "%d", channel);
        else if (*p != 'P') n += (size_t)sprintf(to + n, "%u", number);
        else memset(to + n, 'x', padding), n += padding;
    }
    to[n] = 0;
    return n;
}

static void start_subscriber(int number) {
    Conn *c = &conns[number];
    c->channel = number < s.subs ? number % s.channels : number - s.subs + s.channels;
    c->got = s.held;
    if (strstr(s.path, "@S")) c->got -= (uint32_t)number * 7919u % s.missed; /* a prime: neighbours differ widely */
    n_current += c->got == s.held;
    c->began = now_ns();
    c->fd = open_socket(s.port, number, false);
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
    n_pending++;
}

/* The next token of the file of tokens, as a header; the file has one a line, and begins again at its end. */
static const char *next_token(void) {
    static FILE *file;
    static char line[4096], header[4200];
    if (!*s.tokens) return "";
    if (!file && !(file = fopen(s.tokens, "r"))) err(1, "%s", s.tokens);
    if (!fgets(line, sizeof line, file)) {
        rewind(file);
        if (!fgets(line, sizeof line, file)) errx(1, "%s is empty", s.tokens);
    }
    line[strcspn(line, "\n")] = 0;
    snprintf(header, sizeof header, "Authorization: Bearer %s\r\n", line);
    return header;
}

static void send_request(Conn *c) {
    char path[256], request[8192];
    expand(path, sizeof path, s.path, c->channel, c->got, 0);
    const char *kind = s.sse ? "Accept: text/event-stream\r\n"
                             : "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n";
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s%s%s\r\n", path, s.port, kind, next_token(),
                     s.ask, *s.ask ? "\r\n" : "");
    if (send(c->fd, request, (size_t)n, MSG_NOSIGNAL) != n) err(1, "request");
    c->state = ASKING;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static size_t take_head(Conn *c, const uint8_t *p, size_t n, uint64_t now) {
    const uint8_t *end = memmem(p, n, "\r\n\r\n", 4);
    if (!end) return 0;
    if (n < 12 || memcmp(p, s.sse ? "HTTP/1.1 200" : "HTTP/1.1 101", 12)) errx(1, "refused: %.80s", (const char *)p);
    const char *needed = s.sse ? "chunked" : ACCEPT;
    if (!memmem(p, (size_t)(end - p), needed, strlen(needed))) errx(1, "the answer's head lacks %s", needed);
    bool stalls = c - conns < s.stalled;
    c->state = stalls ? STALLED : OPEN;
    n_pending--;
    n_open++;
    sample(&latency, now - c->began);
    if (stalls) watch(c, EPOLL_CTL_DEL, 0);
    return (size_t)(end - p) + 4;
}

/* Fails unless a message is the next one of the only channel, in the order in which the others get them. */
static void check_order(Conn *c, int who, uint32_t number) {
    if (c->got == n_ordered) {
        if (messages[number].lacking != (uint32_t)receivers) errx(1, "subscriber %d got message %u again", who, number);
        if (s.pubs == 1 && number != n_ordered) errx(1, "message %u came where %u was due", number, n_ordered);
        order[n_ordered++] = number;
    } else if (order[c->got] != number) {
        errx(1, "subscriber %d got message %u where another got %u", who, number, order[c->got]);
    }
}

static void take_message(Conn *c, const uint8_t *p, size_t n, uint64_t now) {
    const uint8_t *found = memmem(p, n < 256 ? n : 256, "\"n\":", 4);
    int who = (int)(c - conns);
    if (!found && memmem(p, n < 32 ? n : 32, "\"subscribed\"", 12)) return;
    if (!found || c->channel >= s.channels)
        errx(1, "subscriber %d got what was never published: %.*s", who, (int)n, (const char *)p);
    uint32_t number = (uint32_t)strtoul((const char *)found + 4, NULL, 10), channels = (uint32_t)s.channels;
    if (number >= published) errx(1, "subscriber %d got message %u, which was never published", who, number);
    if (channels == 1) check_order(c, who, number);
    else if (number != c->got * channels + (uint32_t)c->channel)
        errx(1, "subscriber %d of channel %d got message %u as its %u.", who, c->channel, number, c->got + 1);
    c->got++;
    delivered++;
    if (number < s.held) {
        n_current += c->got == s.held;
        return;
    }
    sample(&latency, now - messages[number].due);
    if (--messages[number].lacking == 0) {
        complete++;
        sample(&last, now - messages[number].due);
    }
}

static void pong(Conn *c, const uint8_t *p, size_t n) {
    uint8_t frame[6 + 125] = {0x8a, (uint8_t)(0x80 | n)}; /* masked with zeros */
    memcpy(frame + 6, p, n);
    if (send(c->fd, frame, n + 6, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) err(1, "pong");
}

/* Takes whole frames; returns the bytes taken. */
static size_t take_frames(Conn *c, const uint8_t *p, size_t n, uint64_t now) {
    size_t done = 0;
    while (n - done >= 2) {
        const uint8_t *f = p + done;
        size_t head = 2, size = f[1] & 127;
        if (size == 126) head = 4, size = (size_t)f[2] << 8 | f[3];
        else if (size == 127) head = 10, size = (size_t)f[6] << 24 | (size_t)f[7] << 16 | (size_t)f[8] << 8 | f[9];
        if (n - done < head || n - done < head + size) break;
        if (f[0] == 0x81) take_message(c, f + head, size, now);
        else if (f[0] == 0x89) pong(c, f + head, size);
        else errx(1, "subscriber %d: a frame begins with %02x%02x%02x%02x", (int)(c - conns), f[0], f[1], f[2], f[3]);
        done += head + size;
    }
    return done;
}

/* Takes whole chunks; returns the bytes taken. What has no data is a comment, or the first position. */
static size_t take_chunks(Conn *c, const uint8_t *p, size_t n, uint64_t now) {
    size_t done = 0;
    while (done < n) {
        const uint8_t *size_end = memmem(p + done, n - done, "\r\n", 2), *data;
        if (!size_end) break;
        size_t size = strtoul((const char *)p + done, NULL, 16), head = (size_t)(size_end - p) + 2 - done;
        if (!size) errx(1, "subscriber %d: the stream has ended", (int)(c - conns));
        if (n - done < head + size + 2) break;
        data = memmem(p + done + head, size, "data: ", 6);
        if (data) take_message(c, data + 6, size - (size_t)(data + 6 - p - done - head), now);
        done += head + size + 2;
    }
    return done;
}

/* Writes a message to the next channel; returns its length. */
static size_t write_message(char *to, size_t space, uint64_t due) {
    size_t padding = s.size > strlen(s.body) ? s.size - strlen(s.body) : 0;
    if (published == MESSAGES) errx(1, "more than %d messages", MESSAGES);
    messages[published].due = due;
    messages[published].lacking = (uint32_t)(receivers / s.channels);
    if (!receivers) complete++;
    return expand(to, space, s.body, (int)(published % (uint32_t)s.channels), published, padding);
}

/* Whether the channels of the next push have nothing under way; a single channel may. */
static bool may_publish(void) {
    uint32_t channels = (uint32_t)s.channels, next = published + (s.items ? (uint32_t)s.items : 1);
    if (channels == 1) return true;
    for (uint32_t number = published; number < next; number++)
        if (number >= channels && messages[number - channels].lacking) return false;
    return true;
}

static void publish(Conn *c, uint64_t due) {
    static char body[BUFFER], path[256], request[BUFFER + 2048];
    size_t size = 0;
    expand(path, sizeof path, s.push, (int)(published % (uint32_t)s.channels), 0, 0);
    for (int i = 0; i < (s.items ? s.items : 1); i++) {
        if (s.items) body[size++] = i ? ',' : '[';
        size += write_message(body + size, sizeof body - size - 2, due);
        published++;
    }
    if (s.items) body[size++] = ']';
    body[size] = 0;
    int n = sprintf(request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                    "Content-Length: %zu\r\n%s\r\n\r\n%s", path, s.push_port, size, s.header, body);
    c->began = due;
    c->busy = true;
    pushed++;
    if (send(c->fd, request, (size_t)n, MSG_NOSIGNAL) != n) err(1, "push"); /* blocks */
}

static size_t take_answer(Conn *c, const uint8_t *p, size_t n, uint64_t now) {
    const char *text = (const char *)p, *end = memmem(p, n, "\r\n\r\n", 4), *length;
    if (!end) return 0;
    if (n < 12 || text[9] != '2') errx(1, "push was answered with: %.300s", text);
    length = strcasestr(text, "\r\ncontent-length:");
    if (!length || length > end) errx(1, "the answer to push has no content-length: %.300s", text);
    size_t size = (size_t)(end - text) + 4 + strtoul(length + 17, NULL, 10);
    if (n < size) return 0;
    c->busy = false;
    answered++;
    sample(&push, now - c->began);
    return size;
}

static void connect_publisher(Conn *c) {
    if (c->fd) close(c->fd);
    *c = (Conn){.state = PUBLISHER, .fd = open_socket(s.push_port ? s.push_port : s.port, 0, true)};
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void on_readable(Conn *c) {
    if (c->kept) memcpy(buffer, c->keep, c->kept);
    ssize_t received = recv(c->fd, buffer + c->kept, BUFFER - c->kept, MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
    bool idle = c->state == PUBLISHER && !c->busy; /* for longer than the server likes */
    if (received <= 0 && idle) return connect_publisher(c);
    if (received <= 0) errx(1, "the server ended a connection: %s", received ? strerror(errno) : "end of stream");
    uint64_t now = now_ns();
    size_t n = c->kept + (size_t)received, taken = 0;
    buffer[n] = 0;
    if (c->state == PUBLISHER) taken = take_answer(c, buffer, n, now);
    if (c->state == ASKING) taken = take_head(c, buffer, n, now);
    if (c->state == OPEN) taken += (s.sse ? take_chunks : take_frames)(c, buffer + taken, n - taken, now);
    if (c->kept || taken < n) {
        c->kept = (uint32_t)(n - taken);
        if (c->kept == BUFFER || !(c->keep = realloc(c->keep, c->kept + 1))) errx(1, "a frame is too large");
        memcpy(c->keep, buffer + taken, c->kept);
    }
}

/* Returns false when something came on stdin. */
static bool poll_for(int milliseconds) {
    struct epoll_event events[EVENTS];
    for (int i = 0, n = epoll_wait(epoll, events, EVENTS, milliseconds); i < n; i++) {
        Conn *c = events[i].data.ptr;
        if (!c) return false;
        if (c->state == CONNECTING) send_request(c);
        else on_readable(c);
    }
    return true;
}

/* Fails when nothing has changed for too long. */
static void check_progress(uint64_t now) {
    static uint64_t before;
    uint64_t progress = delivered + answered + published + (uint64_t)n_open;
    if (progress != before) before = progress, progressed = now;
    if ((double)(now - progressed) / 1e9 > s.patience)
        errx(1, "nothing for %.0f s: %d of %d connections open, %d current, %u of %u pushes answered, %u of %u messages with all",
             s.patience, n_open, n_conns, n_current, answered, pushed, complete, published);
}

static void print_answer(uint32_t count, uint64_t deliveries, uint64_t began, clock_t cpu) {
    printf("{\"messages\":%u,\"deliveries\":%lu,\"seconds\":%.4f,\"client_cpu\":%.3f", count,
           (unsigned long)deliveries, (double)(now_ns() - began) / 1e9, (double)(clock() - cpu) / CLOCKS_PER_SEC);
    print_samples("latency_ms", &latency);
    print_samples("last_ms", &last);
    print_samples("push_ms", &push);
    puts("}");
    fflush(stdout);
}

static void do_connect(void) {
    int total = s.subs + s.idle;
    if (n_conns || total > CONNECTIONS) errx(1, "connect comes once, with at most %d", CONNECTIONS);
    if (s.channels > 1 && (s.stalled || s.held || s.subs % s.channels)) errx(1, "each channel has as many that read");
    for (; published < s.held; published++) order[n_ordered++] = published, complete++;
    clock_t cpu = clock();
    uint64_t began = now_ns();
    latency.count = 0;
    while (n_open < total || n_current < (s.held ? total : 0)) {
        while (n_conns < total && n_pending < s.inflight) start_subscriber(n_conns++);
        poll_for(10);
        check_progress(now_ns());
    }
    receivers = s.subs - s.stalled;
    print_answer(0, delivered, began, cpu);
}

static void publish_due(uint64_t now, uint64_t *due) {
    if (s.rate > 0) {
        for (int i = 0; i < s.pubs && *due <= now; i++)
            if (!pubs[i].busy) publish(&pubs[i], *due), *due += (uint64_t)(1e9 / s.rate);
    } else if (!s.lockstep || (answered == pushed && complete == published)) {
        for (int i = 0; i < s.pubs; i++)
            if (!pubs[i].busy && may_publish()) publish(&pubs[i], now);
    }
}

static void do_run(void) {
    if (s.pubs > PUBLISHERS) errx(1, "at most %d publishers", PUBLISHERS);
    while (n_pubs < s.pubs) connect_publisher(&pubs[n_pubs++]);
    latency.count = last.count = push.count = 0;
    uint64_t began = now_ns(), due = began, end = began + (uint64_t)(s.seconds * 1e9), before = delivered;
    uint32_t first = published;
    clock_t cpu = clock();
    for (uint64_t now = began;; now = now_ns()) {
        bool over = s.rate > 0 ? due >= end : now >= end || published - first >= s.count;
        if (over && answered == pushed && complete == published) break;
        if (!over) publish_due(now, &due);
        uint64_t wait = !over && s.rate > 0 && due > now ? (due - now) / 1000000 : 100;
        poll_for(wait < 100 ? (int)wait : 100);
        check_progress(now);
    }
    print_answer(published - first, delivered - before, began, cpu);
}

static void set(char *text) {
    size_t length = strcspn(text, "=");
    for (size_t i = 0; text[length] && i < sizeof settings / sizeof *settings; i++)
        if (strlen(settings[i].name) == length && !strncmp(text, settings[i].name, length))
            if (sscanf(text + length + 1, settings[i].format, settings[i].to) == 1) return;
    errx(1, "unknown setting %s", text);
}

static void obey(char *line) {
    char *command = strtok(line, " \n");
    for (char *word; (word = strtok(NULL, " \n"));) set(word);
    progressed = now_ns();
    if (command && !strcmp(command, "connect")) do_connect();
    else if (command && !strcmp(command, "run")) do_run();
    else errx(1, "unknown command %s", command ? command : "");
}

int main(int argc, char **argv) {
    char line[1024] = "";
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    for (int i = 1; i < argc; i++) set(argv[i]);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event)) err(1, "stdin");
    while (poll_for(1000) || fgets(line, sizeof line, stdin))
        if (*line) obey(line), *line = 0;
    return 0;
}
