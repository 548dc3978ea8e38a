/* Frames (RFC 6455 section 5), shared by the C extensions: masking, and messages of one frame.

   All functions are static, because each extension includes this file. */

#ifndef DJANGO_WSMUX_FRAMES_H
#define DJANGO_WSMUX_FRAMES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS; Python ignores SIGPIPE itself */
#endif

enum {
    TEXT = 0x1,
    BINARY = 0x2,
    FIN = 0x80,
    MASKED = 0x80,
    LONGEST_HEAD = 10, /* of an unmasked frame */
    JOINED = 8192,     /* up to this size, copying is cheaper than sending two parts */
    CHUNK = 4096,      /* masked at a time where the result is checked; divisible by 4 */
};

/* Masking (section 5.3) */

/* A vector type of gcc and clang, which use what the processor has for it. */
typedef uint64_t Block __attribute__((vector_size(32)));

static const uint64_t NOT_ASCII = UINT64_C(0x8080808080808080);

/* The masking key, twice. */
static inline uint64_t
mask_at(const char *key)
{
    uint64_t mask;
    memcpy(&mask, key, 4);
    memcpy((char *)&mask + 4, key, 4);
    return mask;
}

static inline uint64_t
mask_words(char *to, const char *from, Py_ssize_t length, uint64_t mask)
{
    uint64_t word, seen = 0;
    for (; length >= 8; length -= 8) {
        memcpy(&word, from, 8);
        word ^= mask;
        seen |= word;
        memcpy(to, &word, 8);
        from += 8;
        to += 8;
    }
    if (length > 0) {
        word = 0;
        memcpy(&word, from, length);
        word ^= mask;
        memcpy(to, &word, length);
        word = 0;
        memcpy(&word, to, length);
        seen |= word;
    }
    return seen;
}

static inline __attribute__((always_inline)) uint64_t
mask_blocks(char *to, const char *from, Py_ssize_t length, uint64_t mask)
{
    const Block masks = {mask, mask, mask, mask};
    Block first, second, all = {0, 0, 0, 0};
    for (; length >= 64; length -= 64) {
        memcpy(&first, from, 32);
        memcpy(&second, from + 32, 32);
        first ^= masks;
        second ^= masks;
        all |= first | second;
        memcpy(to, &first, 32);
        memcpy(to + 32, &second, 32);
        from += 64;
        to += 64;
    }
    return all[0] | all[1] | all[2] | all[3] | mask_words(to, from, length, mask);
}

/* Not inline: vectors take more of the stack than greenlets should copy. */
__attribute__((noinline)) static uint64_t
mask_many(char *to, const char *from, Py_ssize_t length, uint64_t mask)
{
    return mask_blocks(to, from, length, mask);
}

#if defined(__x86_64__) && defined(__GNUC__)

/* With instructions that most, but not all, of these processors have. */
__attribute__((noinline, target("avx2"))) static uint64_t
mask_many_avx2(char *to, const char *from, Py_ssize_t length, uint64_t mask)
{
    return mask_blocks(to, from, length, mask);
}

#define HAS_AVX2 __builtin_cpu_supports("avx2")

#else

#define mask_many_avx2 mask_many
#define HAS_AVX2 0

#endif

/* Masks or unmasks, also in place. Returns all bits that are set anywhere in the result. */
static inline uint64_t
apply_mask(char *to, const char *from, Py_ssize_t length, uint64_t mask)
{
    return length < 64 ? mask_words(to, from, length, mask)
           : HAS_AVX2  ? mask_many_avx2(to, from, length, mask)
                       : mask_many(to, from, length, mask);
}

static inline PyObject *
unmasked_bytes(const char *payload, Py_ssize_t length, uint64_t mask)
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, length);
    /* The empty object is shared and must not be written to. */
    if (result != NULL && length > 0) {
        apply_mask(PyBytes_AS_STRING(result), payload, length, mask);
    }
    return result;
}

/* Returns whether the payload is all ASCII; only then all of it is unmasked. */
static inline int
unmask_ascii_to(char *to, const char *payload, Py_ssize_t length, uint64_t mask)
{
    for (Py_ssize_t done = 0; done < length; done += CHUNK) {
        Py_ssize_t size = Py_MIN(length - done, CHUNK);
        if (apply_mask(to + done, payload + done, size, mask) & NOT_ASCII) {
            return 0;
        }
    }
    return 1;
}

/* Returns NULL without an exception if the payload is not all ASCII. */
static inline PyObject *
unmasked_ascii(const char *payload, Py_ssize_t length, uint64_t mask)
{
    PyObject *result = PyUnicode_New(length, 127);
    if (result == NULL || length == 0) {
        return result;
    }
    if (!unmask_ascii_to((char *)PyUnicode_1BYTE_DATA(result), payload, length, mask)) {
        Py_DECREF(result);
        return NULL;
    }
    return result;
}

/* A writable payload is unmasked in place, and masked again if it is not UTF-8. */
static inline PyObject *
unmasked_text(char *payload, Py_ssize_t length, uint64_t mask, int is_writable)
{
    PyObject *result = unmasked_ascii(payload, length, mask);
    if (result != NULL || PyErr_Occurred()) {
        return result;
    }
    char *to = is_writable ? payload : PyMem_Malloc(length);
    if (to == NULL) {
        return PyErr_NoMemory();
    }
    apply_mask(to, payload, length, mask);
    result = PyUnicode_DecodeUTF8(to, length, NULL);
    if (!is_writable) {
        PyMem_Free(to);
    }
    else if (result == NULL) {
        apply_mask(to, to, length, mask);
    }
    return result;
}

/* Messages of one frame */

/* Returns where the payload starts if the bytes begin with the whole head of a message in one plain
   frame within the limit, or 0. */
static inline Py_ssize_t
start_of_payload(const char *arrived, Py_ssize_t size, Py_ssize_t limit, Py_ssize_t *payload)
{
    const unsigned char *data = (const unsigned char *)arrived;
    if (size < 6 || (data[0] != (FIN | TEXT) && data[0] != (FIN | BINARY)) || data[1] < MASKED) {
        return 0;
    }
    uint64_t length = data[1] - MASKED;
    int more = length == 126 ? 2 : length == 127 ? 8 : 0, start = 6 + more;
    if (size < start) {
        return 0;
    }
    if (more > 0) {
        length = 0;
        for (int i = 2; i < 2 + more; i++) {
            length = length << 8 | data[i];
        }
        /* Section 5.2: the length must be minimally encoded. */
        if (length < (more == 2 ? 126 : 65536)) {
            return 0;
        }
    }
    if (limit < 0 || length > (uint64_t)limit) {
        return 0;
    }
    *payload = (Py_ssize_t)length;
    return start;
}

/* Writes the head of an unmasked frame (section 5.2), and returns its size. */
static inline Py_ssize_t
write_head(char *head, int opcode, Py_ssize_t length)
{
    int bytes = length < 126 ? 0 : length < 65536 ? 2 : 8;
    head[0] = (char)(FIN | opcode);
    head[1] = (char)(bytes == 0 ? length : bytes == 2 ? 126 : 127);
    for (int i = 0; i < bytes; i++) {
        head[2 + i] = (char)((uint64_t)length >> 8 * (bytes - 1 - i));
    }
    return 2 + bytes;
}

/* Results of reading and sending besides a number of bytes. */
enum { NOTHING_YET = -1, LOST = -2 };

/* Returns whether to call send() again that has returned this; otherwise the result is how many bytes
   were sent, possibly none; or LOST. */
static inline int
is_interrupted(Py_ssize_t *taken)
{
    if (*taken < 0) {
        if (errno == EINTR) {
            return 1;
        }
        *taken = errno == EAGAIN || errno == EWOULDBLOCK ? 0 : LOST;
    }
    return 0;
}

/* Sends once. Returns how many bytes were sent, possibly none; or LOST. */
static inline Py_ssize_t
send_bytes(int fd, const char *data, Py_ssize_t size)
{
    Py_ssize_t taken;
    do {
        taken = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (is_interrupted(&taken));
    return taken;
}

/* Sends a frame once, as send_bytes() does.

   Not inline: the frame must not lie on the stack of a function that switches greenlets. */
__attribute__((noinline, unused)) static Py_ssize_t
send_frame(int fd, int opcode, const char *payload, Py_ssize_t length, Py_ssize_t *size)
{
    char frame[LONGEST_HEAD + JOINED];
    Py_ssize_t taken, head = write_head(frame, opcode, length);
    *size = head + length;
    struct iovec parts[2] = {
        {.iov_base = frame, .iov_len = head},
        {.iov_base = (char *)payload, .iov_len = length},
    };
    struct msghdr both = {.msg_iov = parts, .msg_iovlen = 2};
    if (length <= JOINED) {
        memcpy(frame + head, payload, length);
        return send_bytes(fd, frame, *size);
    }
    do {
        taken = sendmsg(fd, &both, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (is_interrupted(&taken));
    return taken;
}

#endif
