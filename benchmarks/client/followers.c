/*
 * followers: many subscribers that come back and resume, and publishers that repeat what was not answered, in one thread.
 *
 *   followers [name=value]...     A line on stdin is a command, with more settings; a line of JSON answers it.
 *   connect     open `subs` subscribers, spread evenly over `channels`
 *   publish     begin to publish `rate` messages a second to the channels in turn, each due at its time, on `pubs` connections
 *   phase       what happens from now on belongs to phase `phase`; 0 is the time without a fault
 *   look        tell how things are
 *   end         stop publishing; answer with the account when everybody has everything, `patience` has passed without
 *               progress, or four times as long in all
 *
 *   port                of 127.0.0.1
 *   path, push          targets of the subscribers and of POST; @C stands for the channel's number
 *   streams             1: every second subscriber of a channel reads Server-Sent Events; 0: all are WebSockets
 *   resume              1: subscribers speak abide.v1, and come back with the position that they have
 *   body, header, key   of POST; the key is what Idempotency-Key says; @N stands for the message's number in its channel, @T for when it was due, @P for padding
 *                       up to `size` bytes. The message must arrive with "n":@N,"t":@T in it
 *   repeat              1: a push without a good answer is sent again until it has one
 *   inflight            so many subscribers at most are connecting at once
 *
 * A subscriber that loses its connection comes back after a random pause, up to 100 ms, and up to twice that for each
 * attempt that fails, 5 s at most. The account has what each was to get and what it got: it never fails by itself.
 * A message belongs to a fault's phase if it was due in it or came in it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/epoll.h>

#include "wire.h"

enum { BUFFER = 1 << 20, EVENTS = 1024, FOLLOWERS = 1 << 16, CHANNELS = 1 << 14, PUBLISHERS = 256, PHASES = 4 };
enum { NUMBERS = 1 << 14, WORDS = NUMBERS / 64, POSITION = 96, COMPLAINTS = 5 };

static const uint64_t MS = 1000000, SECOND = 1000000000, ANSWER = 10000000000; /* ns */

static struct {
    int port, subs, channels, pubs, streams, resume, repeat, inflight, phase;
    char path[256], push[256], body[512], header[1024], key[256];
    unsigned size;
    double rate, patience;
} s = {.path = "/@C", .push = "/push/@C", .body = "{\"n\":@N,\"t\":@T,\"p\":\"@P\"}", .header = "Accept: */*", .key = "@C-@N",
       .channels = 1, .pubs = 1, .inflight = 2000, .size = 128, .rate = 1, .patience = 30};

static const Setting settings[] = {
    {"port", "%d", &s.port}, {"path", "%255[^\n]", s.path}, {"push", "%255[^\n]", s.push}, {"body", "%511[^\n]", s.body},
    {"header", "%1023[^\n]", s.header}, {"key", "%255[^\n]", s.key},
    {"subs", "%d", &s.subs}, {"channels", "%d", &s.channels}, {"pubs", "%d", &s.pubs},
    {"streams", "%d", &s.streams}, {"resume", "%d", &s.resume}, {"repeat", "%d", &s.repeat}, {"size", "%u", &s.size},
    {"inflight", "%d", &s.inflight}, {"phase", "%d", &s.phase}, {"rate", "%lf", &s.rate}, {"patience", "%lf", &s.patience}};

/* AWAY waits for its time; OPENING has an answer, and no position yet. */
typedef enum { AWAY, CONNECTING, ASKING, OPENING, LIVE } State;
typedef enum { INPUT, FOLLOWER, PUBLISHER } Kind;

typedef struct { uint32_t kept; uint8_t *keep; } Rest; /* bytes of an incomplete frame, chunk or answer */

typedef struct {
    int fd, channel;
    State state;
    bool stream, chunked;
    unsigned attempt;
    uint64_t at;      /* AWAY: when it comes back; connecting: since when */
    uint64_t lost_at; /* 0 before it was live for the first time */
    Rest rest;
    uint32_t unique, next; /* messages so far, and the number after the highest */
    char position[POSITION];
    uint64_t got[WORDS];
} Follower;

typedef struct {
    int fd;
    bool connected, busy;
    uint64_t message; /* counted over all channels; publisher p has p, p + pubs, ... */
    uint64_t at;      /* not before; busy: since when */
    Rest rest;
} Publisher;

static int epoll, n_live, n_connecting, away[FOLLOWERS], n_away, complaints;
static Follower followers[FOLLOWERS];
static Publisher pubs[PUBLISHERS];
static uint64_t stored[CHANNELS][WORDS], published_from, published_to = UINT64_MAX, phase_from;
static uint32_t n_stored[CHANNELS];
static int phase, fault_before;
static uint8_t buffer[BUFFER + 16];
static char complaint[COMPLAINTS][200];
static Samples latency[PHASES], push[PHASES], outage[PHASES];

/* By kind: WebSocket, event stream. */
static struct { uint64_t received, doubled, disordered, gaps, foreign; } account[2];
static struct { uint64_t sent, stored, repeated, refused, replayed, failures, connects, drops[PHASES], failed_connects; } total;

#define COMPLAIN(...) \
    do { if (complaints < COMPLAINTS) snprintf(complaint[complaints++], sizeof *complaint, __VA_ARGS__); } while (0)

static void watch(int fd, int operation, uint32_t events, Kind kind, size_t index) {
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)kind << 32 | index};
    if (epoll_ctl(epoll, operation, fd, &event)) err(1, "epoll_ctl");
}

static void drop_rest(Rest *rest) {
    free(rest->keep);
    *rest = (Rest){0, NULL};
}

/* The phase that a message belongs to. */
static int phase_of(uint64_t due) { return !phase && due < phase_from ? fault_before : phase; }

/* ---- Subscribers ---- */

static void go_away(Follower *c, uint64_t now) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    drop_rest(&c->rest);
    if (c->state == LIVE) {
        n_live--;
        total.drops[phase]++;
        c->lost_at = now;
        c->attempt = 0;
        away[n_away++] = (int)(c - followers);
    } else if (c->state != AWAY) {
        n_connecting--;
        total.failed_connects++;
    }
    c->state = AWAY;
    uint64_t most = 100 * MS << (c->attempt < 6 ? c->attempt : 6);
    c->at = now + (uint64_t)(drand48() * (double)(most < 5 * SECOND ? most : 5 * SECOND));
    c->attempt++;
}

static void come_back(Follower *c, uint64_t now) {
    int index = (int)(c - followers);
    c->fd = open_socket(s.port, index / 500, false);
    c->state = CONNECTING;
    c->at = now;
    n_connecting++;
    total.connects++;
    if (c->fd < 0) go_away(c, now);
    else watch(c->fd, EPOLL_CTL_ADD, EPOLLOUT, FOLLOWER, (size_t)index);
}

static void send_request(Follower *c, uint64_t now) {
    char path[512], request[2048], extra[POSITION + 64] = "";
    size_t n = expand(path, sizeof path, s.path, (Values){.channel = c->channel});
    const char *since = *c->position ? c->position : "earliest";
    if (s.resume && c->stream && *c->position) sprintf(extra, "Last-Event-ID: %s\r\n", c->position);
    else if (s.resume) snprintf(path + n, sizeof path - n, "?since=%s", since);
    if (s.resume && !c->stream) strcat(extra, "Sec-WebSocket-Protocol: abide.v1\r\n");
    const char *kind = c->stream ? "Accept: text/event-stream\r\n"
                                 : "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                                   "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n";
    int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s\r\n", path, s.port, kind, extra);
    if (send(c->fd, request, (size_t)size, MSG_NOSIGNAL) != size) return go_away(c, now);
    c->state = ASKING;
    watch(c->fd, EPOLL_CTL_MOD, EPOLLIN, FOLLOWER, (size_t)(c - followers));
}

static void is_live(Follower *c, uint64_t now) {
    if (c->state == LIVE) return;
    if (c->lost_at) sample(&outage[phase], now - c->lost_at);
    c->state = LIVE;
    n_live++;
    n_connecting--;
}

/* Returns the bytes taken; -1 if it was refused. */
static ssize_t take_head(Follower *c, const uint8_t *p, size_t n, uint64_t now) {
    const uint8_t *end = memmem(p, n, "\r\n\r\n", 4);
    if (!end) return 0;
    if (n < 12 || memcmp(p, c->stream ? "HTTP/1.1 200" : "HTTP/1.1 101", 12)) return -1;
    c->chunked = memmem(p, (size_t)(end - p), "chunked", 7);
    if (!c->stream && !memmem(p, (size_t)(end - p), ACCEPT, strlen(ACCEPT))) errx(1, "the answer's head has no " ACCEPT);
    c->state = OPENING;
    if (!s.resume) is_live(c, now);
    return end - p + 4;
}

static void take_position(Follower *c, const uint8_t *p, size_t n, const char *before, char after) {
    const uint8_t *found = memmem(p, n < 512 ? n : 512, before, strlen(before)), *end;
    if (!found) return;
    found += strlen(before);
    end = memchr(found, after, (size_t)(p + n - found));
    if (!end || end - found >= POSITION) errx(1, "a position is too long: %.*s", (int)n, (const char *)p);
    memcpy(c->position, found, (size_t)(end - found));
    c->position[end - found] = 0;
}

static void take_message(Follower *c, const uint8_t *p, size_t n, uint64_t now) {
    const uint8_t *found = memmem(p, n, "\"n\":", 4);
    char *rest;
    unsigned long number = found ? strtoul((const char *)found + 4, &rest, 10) : NUMBERS;
    if (number >= NUMBERS || memcmp(rest, ",\"t\":", 5)) {
        account[c->stream].foreign++;
        COMPLAIN("subscriber %d got what was never published: %.*s", (int)(c - followers), n < 99 ? (int)n : 99, (const char *)p);
        return;
    }
    uint64_t due = strtoull(rest + 5, NULL, 10), bit = 1ull << number % 64;
    if (c->got[number / 64] & bit) {
        account[c->stream].doubled++;
        COMPLAIN("subscriber %d of channel %d got message %lu twice", (int)(c - followers), c->channel, number);
        return;
    }
    if (number < c->next) {
        account[c->stream].disordered++;
        COMPLAIN("subscriber %d of channel %d got message %lu after %u", (int)(c - followers), c->channel, number, c->next - 1);
    } else c->next = (uint32_t)number + 1;
    c->got[number / 64] |= bit;
    c->unique++;
    account[c->stream].received++;
    sample(&latency[phase_of(due)], now - due);
}

static void take_gap(Follower *c, const uint8_t *p, size_t n) {
    account[c->stream].gaps++;
    COMPLAIN("subscriber %d was told of a gap: %.*s", (int)(c - followers), n < 150 ? (int)n : 150, (const char *)p);
}

static void take_text(Follower *c, const uint8_t *p, size_t n, uint64_t now) {
    if (!s.resume) return take_message(c, p, n, now);
    if (n > 13 && !memcmp(p, "{\"type\":\"gap\"", 13)) return take_gap(c, p, n);
    if (n > 17 && !memcmp(p, "{\"type\":\"message\"", 17)) take_message(c, p, n, now);
    take_position(c, p, n, "\"position\":\"", '"');
    is_live(c, now);
}

static void take_event(Follower *c, const uint8_t *p, size_t n, uint64_t now) {
    const uint8_t *data = memmem(p, n, "data: ", 6);
    bool is_gap = memmem(p, n, "event: gap", 10), is_closed = memmem(p, n, "event: closed", 13);
    if (is_gap) take_gap(c, p, n);
    else if (data && !is_closed) take_message(c, data, (size_t)(p + n - data), now);
    if (!s.resume || n < 4 || memcmp(p, "id: ", 4)) return;
    take_position(c, p, n, "id: ", '\n');
    is_live(c, now);
}

/* Takes whole frames; returns the bytes taken, -1 when the server has closed. */
static ssize_t take_frames(Follower *c, const uint8_t *p, size_t n, uint64_t now) {
    size_t done = 0;
    for (size_t head, size; (head = frame_head(p + done, n - done, &size)); done += head + size) {
        const uint8_t *f = p + done;
        if (f[0] == 0x81) take_text(c, f + head, size, now);
        else if (f[0] == 0x88) return -1;
        else if (f[0] != 0x89) errx(1, "a frame begins with %02x%02x%02x%02x", f[0], f[1], f[2], f[3]);
        else if (!pong(c->fd, f + head, size)) return -1;
    }
    return (ssize_t)done;
}

/* Takes whole events; returns the bytes taken. */
static size_t take_events(Follower *c, const uint8_t *p, size_t n, uint64_t now) {
    const uint8_t *event = p, *next;
    for (; (next = memmem(event, (size_t)(p + n - event), "\n\n", 2)); event = next + 2)
        take_event(c, event, (size_t)(next + 1 - event), now);
    return (size_t)(event - p);
}

/* Takes whole chunks, in which events are whole; returns the bytes taken, -1 when the stream has ended. */
static ssize_t take_chunks(Follower *c, const uint8_t *p, size_t n, uint64_t now) {
    size_t done = 0;
    if (!c->chunked) return (ssize_t)take_events(c, p, n, now);
    while (done < n) {
        const uint8_t *size_end = memmem(p + done, n - done, "\r\n", 2);
        if (!size_end) break;
        size_t size = strtoul((const char *)p + done, NULL, 16), head = (size_t)(size_end - p) + 2 - done;
        if (!size) return -1;
        if (n - done < head + size + 2) break;
        take_events(c, p + done + head, size, now);
        done += head + size + 2;
    }
    return (ssize_t)done;
}

/* Reads what came, after what was left of before; returns the bytes in the buffer, 0 for none, -1 at the end. */
static ssize_t receive(int fd, Rest *rest) {
    if (rest->kept) memcpy(buffer, rest->keep, rest->kept);
    ssize_t received = recv(fd, buffer + rest->kept, BUFFER - rest->kept, MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (received <= 0) return -1;
    buffer[rest->kept + (size_t)received] = 0;
    return rest->kept + received;
}

static void keep(Rest *rest, size_t taken, size_t n) {
    if (taken == n) return drop_rest(rest);
    rest->kept = (uint32_t)(n - taken);
    if (rest->kept == BUFFER || !(rest->keep = realloc(rest->keep, rest->kept))) errx(1, "a frame is too large");
    memcpy(rest->keep, buffer + taken, rest->kept);
}

static void follower_event(Follower *c, uint64_t now) {
    if (c->state == AWAY) return; /* an event of the same turn */
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        return error ? go_away(c, now) : send_request(c, now);
    }
    ssize_t n = receive(c->fd, &c->rest), taken = 0, more;
    if (n < 0) return go_away(c, now);
    if (!n) return;
    if (c->state == ASKING && (taken = take_head(c, buffer, (size_t)n, now)) < 0) return go_away(c, now);
    if (c->state == OPENING || c->state == LIVE) {
        more = (c->stream ? take_chunks : take_frames)(c, buffer + taken, (size_t)(n - taken), now);
        if (more < 0) return go_away(c, now);
        taken += more;
    }
    keep(&c->rest, (size_t)taken, (size_t)n);
}

/* Lets those come back whose time it is, and gives up attempts that take too long. */
static void tend_followers(uint64_t now) {
    static uint64_t looked;
    if (!n_away || now - looked < 5 * MS) return;
    looked = now;
    int left = 0;
    for (int i = 0; i < n_away; i++) {
        Follower *c = &followers[away[i]];
        if (c->state == LIVE) continue;
        away[left++] = away[i];
        if (c->state == AWAY && c->at <= now && n_connecting < s.inflight) come_back(c, now);
        else if (c->state != AWAY && now - c->at > ANSWER) go_away(c, now);
    }
    n_away = left;
}

/* ---- Publishers ---- */

static uint64_t due_of(uint64_t message) { return published_from + (uint64_t)((double)message * 1e9 / s.rate); }

static void disconnect(Publisher *p, uint64_t now, bool is_failure) {
    if (p->fd >= 0) close(p->fd);
    p->fd = -1;
    p->connected = false;
    drop_rest(&p->rest);
    if (!p->busy && !is_failure) return;
    total.failures++;
    p->busy = false;
    p->at = now + 20 * MS + (uint64_t)(drand48() * 80e6);
    if (s.repeat) total.repeated++;
    else total.refused++, p->message += (uint64_t)s.pubs;
}

static void send_push(Publisher *p, uint64_t now) {
    static char body[4096], path[512], key[512], request[8192];
    Values values = {.channel = (int)(p->message % (uint64_t)s.channels), .number = (uint32_t)(p->message / (uint64_t)s.channels),
                     .time = due_of(p->message)};
    if (values.number >= NUMBERS) errx(1, "more than %d messages for a channel", NUMBERS);
    expand(path, sizeof path, s.push, values);
    expand(key, sizeof key, s.key, values);
    values.padding = s.size > strlen(s.body) ? s.size - strlen(s.body) : 0;
    size_t size = expand(body, sizeof body, s.body, values);
    int n = sprintf(request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                    "Idempotency-Key: %s\r\n%s\r\n\r\n%s", path, s.port, size, key, s.header, body);
    p->busy = true;
    p->at = now;
    total.sent++;
    if (send(p->fd, request, (size_t)n, MSG_NOSIGNAL) != n) disconnect(p, now, true);
}

static void take_answer(Publisher *p, size_t n, uint64_t now) {
    const char *text = (const char *)buffer, *end = memmem(text, n, "\r\n\r\n", 4), *length;
    if (!end) return keep(&p->rest, 0, n);
    length = strcasestr(text, "\r\ncontent-length:");
    if (!length || length > end) errx(1, "the answer to push has no content-length: %.300s", text);
    if (n < (size_t)(end - text) + 4 + strtoul(length + 17, NULL, 10)) return keep(&p->rest, 0, n);
    drop_rest(&p->rest);
    if (text[9] != '2') {
        COMPLAIN("push was answered with: %.150s", text + 9);
        return disconnect(p, now, true);
    }
    char *replayed = strcasestr(text, "\r\nidempotency-replayed:");
    total.replayed += replayed && replayed < end;
    uint64_t channel = p->message % (uint64_t)s.channels, number = p->message / (uint64_t)s.channels;
    stored[channel][number / 64] |= 1ull << number % 64;
    n_stored[channel]++;
    total.stored++;
    sample(&push[phase_of(due_of(p->message))], now - due_of(p->message));
    p->busy = false;
    p->message += (uint64_t)s.pubs;
}

static void publisher_event(Publisher *p, uint64_t now) {
    if (p->fd < 0) return;
    if (!p->connected) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) return disconnect(p, now, true);
        p->connected = true;
        watch(p->fd, EPOLL_CTL_MOD, EPOLLIN, PUBLISHER, (size_t)(p - pubs));
        return send_push(p, now);
    }
    ssize_t n = receive(p->fd, &p->rest);
    if (n < 0) return disconnect(p, now, false);
    if (n && !p->busy) errx(1, "an answer that nobody waits for: %.200s", (const char *)buffer);
    if (n) take_answer(p, (size_t)n, now);
}

static bool has_due(const Publisher *p, uint64_t now) {
    uint64_t due = due_of(p->message);
    return due <= now && due < published_to;
}

/* Sends what is due; returns when to look again. */
static uint64_t tend_publishers(uint64_t now) {
    uint64_t next = now + 100 * MS;
    for (Publisher *p = pubs; published_from && p < pubs + s.pubs; p++) {
        bool waits = p->busy || (p->fd >= 0 && !p->connected);
        if (waits && now - p->at > ANSWER) disconnect(p, now, true), waits = false;
        if (waits) continue;
        uint64_t at = due_of(p->message);
        if (!p->connected && at < p->at) at = p->at;
        if (at > now) {
            if (at < next) next = at;
        } else if (!has_due(p, now)) continue;
        else if (p->connected) send_push(p, now);
        else if (p->at = now, (p->fd = open_socket(s.port, 0, false)) < 0) disconnect(p, now, true);
        else watch(p->fd, EPOLL_CTL_ADD, EPOLLOUT, PUBLISHER, (size_t)(p - pubs));
    }
    return next;
}

static uint32_t unsent(uint64_t now) {
    uint32_t count = 0;
    for (Publisher *p = pubs; published_from && p < pubs + s.pubs; p++) count += p->busy || has_due(p, now);
    return count;
}

/* ---- Commands ---- */

static void print_sums(void) {
    printf("{\"live\":%d,\"published\":%lu,\"received\":%lu,\"unanswered\":%u,\"client_cpu\":%.3f", n_live, (unsigned long)total.stored,
           (unsigned long)(account[0].received + account[1].received), unsent(now_ns()), (double)clock() / CLOCKS_PER_SEC);
    printf(",\"pushes\":%lu,\"repeated\":%lu,\"refused\":%lu,\"replayed\":%lu,\"connects\":%lu,\"failed_connects\":%lu",
           (unsigned long)total.sent, (unsigned long)total.repeated, (unsigned long)total.refused, (unsigned long)total.replayed,
           (unsigned long)total.connects, (unsigned long)total.failed_connects);
}

static void print_look(void) {
    print_sums();
    puts("}");
    fflush(stdout);
}

static void print_account(void) {
    uint64_t expected[2] = {0}, lost[2] = {0}, unacknowledged[2] = {0};
    for (Follower *c = followers; c < followers + s.subs; c++) {
        expected[c->stream] += n_stored[c->channel];
        for (int i = 0; i < WORDS; i++) {
            uint64_t missing = stored[c->channel][i] & ~c->got[i];
            if (missing) COMPLAIN("subscriber %d of channel %d never got message %d", (int)(c - followers), c->channel,
                                  i * 64 + __builtin_ctzll(missing));
            lost[c->stream] += (uint64_t)__builtin_popcountll(missing);
            unacknowledged[c->stream] += (uint64_t)__builtin_popcountll(c->got[i] & ~stored[c->channel][i]);
        }
    }
    print_sums();
    printf(",\"accounts\":[");
    for (int i = 0; i < 2; i++)
        printf("%s{\"expected\":%lu,\"received\":%lu,\"lost\":%lu,\"doubled\":%lu,\"disordered\":%lu,\"gaps\":%lu,\"foreign\":%lu,\"unacknowledged\":%lu}",
               i ? "," : "", (unsigned long)expected[i], (unsigned long)account[i].received, (unsigned long)lost[i],
               (unsigned long)account[i].doubled, (unsigned long)account[i].disordered, (unsigned long)account[i].gaps,
               (unsigned long)account[i].foreign, (unsigned long)unacknowledged[i]);
    printf("],\"phases\":[");
    for (int i = 0; i < PHASES; i++) {
        printf("%s{\"drops\":%lu", i ? "," : "", (unsigned long)total.drops[i]);
        print_samples("latency_ms", &latency[i]);
        print_samples("push_ms", &push[i]);
        print_samples("outage_ms", &outage[i]);
        printf("}");
    }
    printf("],\"complaints\":[");
    for (int i = 0; i < complaints; i++) {
        for (char *p = complaint[i]; *p; p++) if (*p < ' ' || *p == '"' || *p == '\\') *p = '\'';
        printf("%s\"%s\"", i ? "," : "", complaint[i]);
    }
    puts("]}");
    fflush(stdout);
}

static bool everybody_has_everything(uint64_t now) {
    if (unsent(now)) return false;
    for (Follower *c = followers; c < followers + s.subs; c++)
        if (c->unique < n_stored[c->channel]) return false;
    return true;
}

static enum { NOTHING, CONNECT, END } waiting;

/* Answers a command that waits, when it is over. */
static void tend_command(uint64_t now) {
    static uint64_t progress, progressed, began, looked;
    if (!waiting || now - looked < 50 * MS) return;
    looked = now;
    uint64_t reached = account[0].received + account[1].received + total.stored + (waiting == CONNECT ? (uint64_t)n_live : 0);
    if (!progressed) began = now;
    if (reached != progress || !progressed) progress = reached, progressed = now;
    bool is_over = waiting == CONNECT ? n_live == s.subs : everybody_has_everything(now);
    if (!is_over && (double)(now - progressed) / 1e9 < s.patience && (double)(now - began) / 1e9 < 4 * s.patience) return;
    if (waiting == CONNECT) print_look();
    else print_account();
    waiting = NOTHING, progressed = 0;
}

static void begin_connect(void) {
    if (s.subs > FOLLOWERS || s.channels > CHANNELS) errx(1, "at most %d subscribers and %d channels", FOLLOWERS, CHANNELS);
    for (int i = 0; i < s.subs; i++) {
        followers[i] = (Follower){.fd = -1, .channel = i % s.channels, .stream = s.streams && i / s.channels % 2};
        away[n_away++] = i;
    }
    waiting = CONNECT;
}

static void begin_publish(uint64_t now) {
    if (s.pubs > PUBLISHERS || s.channels % s.pubs) errx(1, "at most %d publishers, and channels a multiple of them", PUBLISHERS);
    for (int i = 0; i < s.pubs; i++) pubs[i] = (Publisher){.fd = -1, .message = (uint64_t)i};
    published_from = now;
}

static void begin_phase(uint64_t now) {
    if (s.phase < 0 || s.phase >= PHASES) errx(1, "phases are 0 to %d", PHASES - 1);
    if (phase) fault_before = phase;
    phase = s.phase;
    phase_from = now;
}

static void obey(char *line, uint64_t now) {
    char *command = strtok(line, " \n");
    for (char *word; (word = strtok(NULL, " \n"));) set(settings, sizeof settings / sizeof *settings, word);
    if (!command || waiting) errx(1, "one command at a time");
    if (!strcmp(command, "connect")) return begin_connect();
    if (!strcmp(command, "end")) published_to = now, waiting = END;
    else if (!strcmp(command, "publish")) begin_publish(now);
    else if (!strcmp(command, "phase")) begin_phase(now);
    else if (strcmp(command, "look")) errx(1, "unknown command %s", command);
    if (!waiting) print_look();
}

/* Returns false when stdin has ended. */
static bool handle(struct epoll_event *event, uint64_t now) {
    static char line[1024];
    size_t index = event->data.u64 & UINT32_MAX;
    Kind kind = (Kind)(event->data.u64 >> 32);
    if (kind == FOLLOWER) follower_event(&followers[index], now);
    else if (kind == PUBLISHER) publisher_event(&pubs[index], now);
    else if (!fgets(line, sizeof line, stdin)) return false;
    else obey(line, now);
    return true;
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    for (int i = 1; i < argc; i++) set(settings, sizeof settings / sizeof *settings, argv[i]);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(STDIN_FILENO, EPOLL_CTL_ADD, EPOLLIN, INPUT, 0);
    for (;;) {
        uint64_t now = now_ns(), next = tend_publishers(now);
        tend_followers(now);
        tend_command(now);
        if (n_away && next > now + 5 * MS) next = now + 5 * MS;
        uint64_t wait = next > now ? next - now : 0;
        struct timespec timeout = {0, (long)wait};
        int n = epoll_pwait2(epoll, events, EVENTS, &timeout, NULL);
        now = now_ns();
        for (int i = 0; i < n; i++)
            if (!handle(&events[i], i % 64 == 63 ? now = now_ns() : now)) return 0;
    }
}
