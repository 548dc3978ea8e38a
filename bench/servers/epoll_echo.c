/* epoll_echo - a WebSocket echo on bare epoll: the upper limit of one core.
 *
 * build: gcc -O2 -Wall -o epoll_echo epoll_echo.c
 *
 * Usage: epoll_echo PORT; it listens on 127.0.0.1. One thread, level-triggered: one epoll_wait
 * for many connections, one recv per readable event, one send for all frames that it completes.
 *
 * A masked header is four bytes longer than an unmasked one, so the answer is built in place: the
 * payload is unmasked where it was read, with the new header right before it. Small frames share one
 * buffer, and all of them are answered before the next recv. A frame that arrives in parts gets a
 * buffer of its size, into which it is read directly. It is unmasked part by part while it is in the
 * cache, and the buffer itself is queued if the peer does not take it at once.
 *
 * Fragments are sent back unchanged. Text is not checked to be UTF-8.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

#define SHARED (256 * 1024)     /* size of the buffer for whole frames */
#define MAX_REQUEST 16384       /* bytes of a handshake */
#define MAX_FRAME (1ull << 30)  /* bytes of payload */
#define MAX_QUEUED (8u << 20)   /* reading stops while more than this is unsent */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* ------------------------------------------------- SHA-1 and base64, for the handshake only */
static u32 rol(u32 x, int n) { return x << n | x >> (32 - n); }

static void sha1_block(u32 h[5], const u8 *p)
{
    u32 w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++)
        w[i] = (u32)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rol(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        u32 f = i < 20 ? (b & c) | (~b & d) : i >= 40 && i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        u32 k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
        u32 t = rol(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rol(b, 30), b = a, a = t;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

/* compute Sec-WebSocket-Accept for a key of 24 characters (RFC 6455, section 4.2.2) */
static void accept_for(const char *key, char out[29])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    u32 h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    u8 text[128] = {0}, digest[21] = {0};
    memcpy(text, key, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    text[60] = 0x80;
    text[126] = 480 >> 8, text[127] = 480 & 255; /* length in bits */
    sha1_block(h, text);
    sha1_block(h, text + 64);
    for (int i = 0; i < 20; i++) digest[i] = h[i / 4] >> (24 - i % 4 * 8);
    for (int i = 0; i < 7; i++) {
        u32 v = digest[3 * i] << 16 | digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int k = 0; k < 4; k++) out[4 * i + k] = digits[v >> (18 - 6 * k) & 63];
    }
    out[27] = '=', out[28] = 0;
}

/* ------------------------------------------------------------------------------- connections */
typedef struct chunk {
    struct chunk *next;
    u8 *memory; /* to free */
    const u8 *data;
    size_t size;
} chunk;

typedef struct conn {
    int fd;
    u32 watched; /* epoll events asked for */
    u8 is_open, is_closing;
    /* an incomplete request or frame; a frame includes its header */
    u8 *part;
    size_t filled, needed, head, unmasked;
    /* unsent data */
    chunk *first, **last;
    size_t queued;
    struct conn *next_dead;
} conn;

static int ep;
static u8 shared[SHARED];
static conn *dead; /* freed after the round, whose events may still refer to them */

static void watch(conn *c)
{
    u32 events = (c->queued < MAX_QUEUED ? EPOLLIN : 0) | (c->queued ? EPOLLOUT : 0);
    if (events == c->watched) return;
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(ep, c->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
    c->watched = events;
}

static void drop(conn *c)
{
    if (c->fd < 0) return;
    close(c->fd);
    c->fd = -1;
    free(c->part);
    while (c->first) {
        chunk *next = c->first->next;
        free(c->first->memory);
        free(c->first);
        c->first = next;
    }
    c->next_dead = dead;
    dead = c;
}

static void *allocate(size_t size)
{
    void *memory = malloc(size);
    if (!memory) die("malloc");
    return memory;
}

/* Send as much as the peer takes now and queue the rest. `memory` is freed after the data is sent;
 * without it the caller owns the data, and the rest is copied. */
static void send_all(conn *c, const u8 *data, size_t size, u8 *memory)
{
    ssize_t sent = 0;
    if (!c->queued) {
        sent = send(c->fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            free(memory);
            drop(c);
            return;
        }
        if (sent < 0) sent = 0;
        if ((size_t)sent == size) {
            free(memory);
            return;
        }
    }
    chunk *rest = allocate(sizeof *rest);
    *rest = (chunk){.memory = memory, .data = data + sent, .size = size - sent};
    if (!memory) {
        rest->data = rest->memory = allocate(rest->size);
        memcpy(rest->memory, data + sent, rest->size);
    }
    *c->last = rest;
    c->last = &rest->next;
    c->queued += rest->size;
}

static void writable(conn *c)
{
    while (c->first) {
        chunk *head = c->first;
        ssize_t sent = send(c->fd, head->data, head->size, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) drop(c);
            return;
        }
        c->queued -= sent;
        if ((size_t)sent < head->size) {
            head->data += sent;
            head->size -= sent;
            return;
        }
        if (!(c->first = head->next)) c->last = &c->first;
        free(head->memory);
        free(head);
    }
    if (c->is_closing) drop(c);
}

/* ------------------------------------------------------------------------------------ frames */
typedef u64 vector __attribute__((vector_size(32), aligned(1), may_alias));

/* Unmask from `from` to `to`, which is the same address or a lower one. */
static void unmask(u8 *to, const u8 *from, size_t size, u32 mask)
{
    u64 wide = (u64)mask << 32 | mask;
    vector key = {wide, wide, wide, wide};
    size_t i = 0;
    for (; i + 32 <= size; i += 32) *(vector *)(to + i) = *(const vector *)(from + i) ^ key;
    for (; i < size; i++) to[i] = from[i] ^ ((const u8 *)&mask)[i & 3];
}

/* Parse a header, of which `size` bytes have arrived. Return its length and set that of the payload;
 * or return 0 and set the number of bytes needed; or return -1 if it is invalid or too long. */
static int read_head(const u8 *p, size_t size, u64 *length)
{
    *length = 2;
    if (size < 2) return 0;
    int opcode = p[0] & 15, is_control = opcode & 8, small = p[1] & 127;
    if (p[0] & 0x70 || !(p[1] & 0x80) || opcode > PONG || (opcode > BINARY && !is_control)) return -1;
    if (is_control && (small > 125 || !(p[0] & 0x80))) return -1;
    int head = small == 127 ? 14 : small == 126 ? 8 : 6;
    *length = head;
    if (size < (size_t)head) return 0;
    *length = small;
    if (small > 125) {
        *length = 0;
        for (int i = 2; i < head - 4; i++) *length = *length << 8 | p[i];
    }
    return *length > MAX_FRAME ? -1 : head;
}

static void refuse(conn *c)
{
    static const u8 frame[] = {0x80 | CLOSE, 2, 1002 >> 8, 1002 & 255};
    c->is_closing = 1;
    send_all(c, frame, sizeof frame, NULL);
}

/* Write the header of the answer to `to`: that at `p`, of `head` bytes, without its mask. */
static size_t answer_head(u8 *to, const u8 *p, int head)
{
    int opcode = p[0] & 15;
    u8 first = opcode == PING ? 0x80 | PONG : p[0], second = p[1] & 127;
    memmove(to + 2, p + 2, head - 6); /* the extended length, if any */
    to[0] = first, to[1] = second;
    return head - 4;
}

/* Answer the complete frames among these bytes. Return how many bytes they had. */
static size_t answer(conn *c, u8 *data, size_t size, u8 *memory)
{
    u8 *start = NULL, *out = NULL;
    size_t position = 0;
    while (!c->is_closing) {
        u8 *p = data + position;
        u64 length;
        int head = read_head(p, size - position, &length);
        if (head < 0) break;
        if (!head) {
            c->needed = length;
            break;
        }
        if (head + length > size - position) {
            c->needed = head + length;
            break;
        }
        position += head + length;
        int opcode = p[0] & 15;
        if (opcode == PONG) continue;
        /* The first answer replaces its frame, and the next ones follow it. */
        if (!start) start = out = p + 4;
        u32 mask;
        memcpy(&mask, p + head - 4, 4);
        out += answer_head(out, p, head);
        size_t done = data == c->part ? c->unmasked : 0;
        unmask(out + done, p + head + done, length - done, mask);
        out += length;
        c->is_closing = opcode == CLOSE;
    }
    u64 length;
    int is_bad = !c->is_closing && read_head(data + position, size - position, &length) < 0;
    if (start)
        send_all(c, start, out - start, memory);
    else
        free(memory);
    if (is_bad && c->fd >= 0) refuse(c);
    return position;
}

static void keep(conn *c, const u8 *data, size_t size)
{
    c->part = allocate(c->needed);
    memcpy(c->part, data, size);
    c->filled = size;
    c->head = c->unmasked = 0;
}

/* Handle bytes in the shared buffer. */
static void received(conn *c, u8 *data, size_t size)
{
    size_t used = answer(c, data, size, NULL);
    if (c->fd >= 0 && !c->is_closing && used < size) keep(c, data + used, size - used);
}

/* Handle bytes in the frame's own buffer: unmask the payload that has arrived, in multiples of the
 * mask. */
static void part_received(conn *c, size_t size)
{
    c->filled += size;
    if (c->filled < c->needed || !c->head) {
        u64 length;
        int head = c->head ? (int)c->head : read_head(c->part, c->filled, &length);
        if (head < 0) {
            refuse(c);
            return;
        }
        if (head && !c->head) {
            c->head = head;
            c->needed = head + length;
            c->part = realloc(c->part, c->needed);
            if (!c->part) die("realloc");
        }
        if (!head) {
            c->needed = length;
            c->part = realloc(c->part, c->needed);
            if (!c->part) die("realloc");
            return;
        }
    }
    if (c->filled < c->needed) {
        u32 mask;
        memcpy(&mask, c->part + c->head - 4, 4);
        u8 *payload = c->part + c->head;
        size_t until = (c->filled - c->head) & ~(size_t)31;
        if (until > c->unmasked) {
            unmask(payload + c->unmasked, payload + c->unmasked, until - c->unmasked, mask);
            c->unmasked = until;
        }
        return;
    }
    u8 *part = c->part;
    answer(c, part, c->filled, part);
    c->part = NULL;
}

/* --------------------------------------------------------------------------------- handshake */
static const char *header(const char *request, const char *name, size_t *size)
{
    size_t length = strlen(name);
    for (const char *line = strstr(request, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) || line[length] != ':') continue;
        const char *value = line + length + 1;
        while (*value == ' ' || *value == '\t') value++;
        *size = strcspn(value, "\r\n");
        while (*size && (value[*size - 1] == ' ' || value[*size - 1] == '\t')) --*size;
        return value;
    }
    *size = 0;
    return "";
}

/* Handle the bytes of a request so far; frames may already follow it in the buffer. */
static void requested(conn *c, u8 *data, size_t size)
{
    u8 *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) {
        if (size > MAX_REQUEST) {
            drop(c);
            return;
        }
        c->needed = size + MAX_REQUEST;
        u8 *before = c->part;
        keep(c, data, size);
        free(before);
        return;
    }
    end[2] = 0;
    size_t upgrade, version, length;
    const char *request = (const char *)data;
    int is_websocket = !strncasecmp(header(request, "Upgrade", &upgrade), "websocket", 9) && upgrade == 9;
    int is_13 = !strncmp(header(request, "Sec-WebSocket-Version", &version), "13", 2) && version == 2;
    const char *key = header(request, "Sec-WebSocket-Key", &length);
    u8 *before = c->part;
    c->part = NULL;
    if (strncmp(request, "GET ", 4) || !is_websocket || !is_13 || length != 24) {
        static const u8 no[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        c->is_closing = 1;
        send_all(c, no, sizeof no - 1, NULL);
    } else {
        char accept[29], yes[200];
        accept_for(key, accept);
        int count = snprintf(yes, sizeof yes,
                             "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                             "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
        c->is_open = 1;
        send_all(c, (u8 *)yes, count, NULL);
        size_t used = end + 4 - data;
        if (c->fd >= 0 && used < size) received(c, data + used, size - used);
    }
    free(before);
}

/* -------------------------------------------------------------------------------------- loop */
static void readable(conn *c)
{
    u8 *space = c->part ? c->part + c->filled : shared;
    size_t room = c->part ? c->needed - c->filled : SHARED;
    ssize_t size = recv(c->fd, space, room, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        drop(c);
        return;
    }
    if (c->is_closing) return; /* ignore further data */
    if (!c->is_open)
        requested(c, c->part ? c->part : shared, c->filled * !!c->part + size);
    else if (c->part)
        part_received(c, size);
    else
        received(c, shared, size);
}

static void on_event(conn *c, u32 events)
{
    if (c->fd < 0) return;
    if (events & EPOLLOUT) writable(c);
    if (c->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
    if (c->fd < 0) return;
    if (c->is_closing && !c->queued)
        drop(c);
    else
        watch(c);
}

static void accept_all(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conn *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        c->last = &c->first;
        watch(c);
    }
    if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) die("accept4");
}

static int listening(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address)) die("bind");
    if (listen(fd, 2048)) die("listen");
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: epoll_echo PORT\n");
        return 2;
    }
    /* Reuse a freed frame buffer for the next frame. If it went back to the kernel, its pages would
     * have to be cleared again. */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = listening(atoi(argv[1]));
    ep = epoll_create1(EPOLL_CLOEXEC);
    if (ep < 0) die("epoll_create1");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[512];
    if (epoll_ctl(ep, EPOLL_CTL_ADD, listener, &event)) die("epoll_ctl");
    for (;;) {
        int count = epoll_wait(ep, events, 512, -1);
        if (count < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                on_event(events[i].data.ptr, events[i].events);
            else
                accept_all(listener);
        }
        while (dead) {
            conn *next = dead->next_dead;
            free(dead);
            dead = next;
        }
    }
}
