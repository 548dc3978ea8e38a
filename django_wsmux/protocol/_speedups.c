/* Fast paths for small messages in C: one call to read a message, one to send it.

   Optional. Without a compiler, Python does the same; tests/protocol/test_speedups.py compares the
   two. Rules of this file:

   - It handles messages that arrive alone in one plain frame, as nearly all do. Everything else is
     returned unchanged for codec.py: only one place decides what is an error.
   - The GIL is kept. The sockets never block, and releasing and taking the GIL costs more than the
     system call.
   - No state, neither of the module nor of a connection.

   _speedups.pyi documents the arguments and results of each function.

   Sections are those of RFC 6455. */

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

/* A vector type of gcc and clang, which every 64-bit processor supports. */
typedef uint64_t Block __attribute__((vector_size(16)));

static const uint64_t NOT_ASCII = UINT64_C(0x8080808080808080);

/* The masking key, twice. */
static uint64_t
mask_at(const char *key)
{
    uint64_t mask;
    memcpy(&mask, key, 4);
    memcpy((char *)&mask + 4, key, 4);
    return mask;
}

/* Masks or unmasks, also in place. Returns all bits that are set anywhere in the result. */
static uint64_t
apply_mask(char *to, const char *from, Py_ssize_t length, uint64_t mask)
{
    const Block masks = {mask, mask};
    Block first, second, all = {0, 0};
    for (; length >= 32; length -= 32) {
        memcpy(&first, from, 16);
        memcpy(&second, from + 16, 16);
        first ^= masks;
        second ^= masks;
        all |= first | second;
        memcpy(to, &first, 16);
        memcpy(to + 16, &second, 16);
        from += 32;
        to += 32;
    }
    uint64_t word, seen = all[0] | all[1];
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

static PyObject *
unmasked_bytes(const char *payload, Py_ssize_t length, uint64_t mask)
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, length);
    /* The empty object is shared and must not be written to. */
    if (result != NULL && length > 0) {
        apply_mask(PyBytes_AS_STRING(result), payload, length, mask);
    }
    return result;
}

/* Returns NULL without an exception if the payload is not all ASCII. */
static PyObject *
unmasked_ascii(const char *payload, Py_ssize_t length, uint64_t mask)
{
    PyObject *result = PyUnicode_New(length, 127);
    if (result == NULL || length == 0) {
        return result;
    }
    char *to = (char *)PyUnicode_1BYTE_DATA(result);
    for (Py_ssize_t done = 0; done < length; done += CHUNK) {
        Py_ssize_t size = Py_MIN(length - done, CHUNK);
        if (apply_mask(to + done, payload + done, size, mask) & NOT_ASCII) {
            Py_DECREF(result);
            return NULL;
        }
    }
    return result;
}

/* A writable payload is unmasked in place, and masked again if it is not UTF-8. */
static PyObject *
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

/* Reading and sending */

/* Returns (first, second); takes over the reference to `first`, which may be NULL. */
static PyObject *
pair(PyObject *first, Py_ssize_t second)
{
    PyObject *number = first == NULL ? NULL : PyLong_FromSsize_t(second);
    PyObject *result = number == NULL ? NULL : PyTuple_New(2);
    if (result == NULL) {
        Py_XDECREF(first);
        Py_XDECREF(number);
        return NULL;
    }
    PyTuple_SET_ITEM(result, 0, first);
    PyTuple_SET_ITEM(result, 1, number);
    return result;
}

static int
has_arguments(const char *name, Py_ssize_t expected, Py_ssize_t given)
{
    if (given != expected) {
        PyErr_Format(
            PyExc_TypeError, "%s() takes %zd arguments, not %zd", name, expected, given);
        return 0;
    }
    return 1;
}

/* Returns where the payload starts if the bytes are exactly one message in one frame, or 0. */
static Py_ssize_t
start_of_payload(const char *arrived, Py_ssize_t size, Py_ssize_t limit)
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
    if (length != (uint64_t)(size - start) || size - start > limit) {
        return 0;
    }
    return start;
}

PyDoc_STRVAR(read_message_doc,
"read_message(fd, buffer, limit, /)\n--\n\n"
"Read once, and return the message if exactly one has arrived: (message or None, size).");

static PyObject *
read_message(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (!has_arguments("read_message", 3, count)) {
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(arguments[0]);
    if (fd < 0) {
        return NULL;
    }
    PyObject *buffer = arguments[1];
    if (!PyByteArray_Check(buffer)) {
        PyErr_SetString(PyExc_TypeError, "read_message() reads into a bytearray");
        return NULL;
    }
    Py_ssize_t limit = PyNumber_AsSsize_t(arguments[2], NULL);
    if (limit == -1 && PyErr_Occurred()) {
        return NULL;
    }
    char *data;
    Py_ssize_t size;
    for (;;) {
        /* Read again each time: a signal handler may have changed the buffer. */
        data = PyByteArray_AS_STRING(buffer);
        if (PyByteArray_GET_SIZE(buffer) == 0) {
            PyErr_SetString(PyExc_ValueError, "read_message() cannot read into an empty buffer");
            return NULL;
        }
        size = recv(fd, data, PyByteArray_GET_SIZE(buffer), MSG_DONTWAIT);
        if (size >= 0) {
            break;
        }
        if (errno != EINTR) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    Py_ssize_t start = start_of_payload(data, size, limit);
    if (start == 0) {
        return pair(Py_NewRef(Py_None), size);
    }
    char *payload = data + start;
    uint64_t mask = mask_at(payload - 4);
    if (((unsigned char)data[0] & 0x0F) == BINARY) {
        return pair(unmasked_bytes(payload, size - start, mask), size);
    }
    PyObject *text = unmasked_text(payload, size - start, mask, 1);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        text = Py_NewRef(Py_None);
    }
    return pair(text, size);
}

/* Writes the head of an unmasked frame (section 5.2), and returns its size. */
static Py_ssize_t
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

/* Sends once. Returns how many bytes were sent, possibly none, or -1 with an exception. */
static Py_ssize_t
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
    }
    for (;;) {
        if (length <= JOINED) {
            taken = send(fd, frame, *size, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        else {
            taken = sendmsg(fd, &both, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        if (taken >= 0) {
            return taken;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return 0;
        }
        if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
}

/* The thread that may write messages, or 0 for any. */
static unsigned long writer = 0;

PyDoc_STRVAR(keep_to_thread_doc,
"keep_to_thread(/)\n--\n\n"
"Make write_message() refuse all other threads.");

static PyObject *
keep_to_thread(PyObject *Py_UNUSED(module), PyObject *const *Py_UNUSED(arguments), Py_ssize_t count)
{
    if (!has_arguments("keep_to_thread", 0, count)) {
        return NULL;
    }
    writer = PyThread_get_thread_ident();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(write_message_doc,
"write_message(fd, message, opcode, /)\n--\n\n"
"Send a message in one frame, as much as the socket takes: (size of the frame, bytes sent).");

static PyObject *
write_message(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (!has_arguments("write_message", 3, count)) {
        return NULL;
    }
    if (writer != 0 && writer != PyThread_get_thread_ident()) {
        PyErr_SetString(
            PyExc_RuntimeError, "write_message() in another thread than keep_to_thread()");
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(arguments[0]);
    if (fd < 0) {
        return NULL;
    }
    PyObject *message = arguments[1], *encoded = NULL;
    long opcode = PyLong_AsLong(arguments[2]);
    if (opcode == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (opcode != TEXT && opcode != BINARY) {
        PyErr_SetString(PyExc_ValueError, "write_message() sends opcodes 1 and 2");
        return NULL;
    }
    const char *payload;
    Py_ssize_t length, size;
    if (PyUnicode_CheckExact(message) && PyUnicode_IS_COMPACT_ASCII(message)) {
        payload = (const char *)PyUnicode_1BYTE_DATA(message);
        length = PyUnicode_GET_LENGTH(message);
    }
    else {
        if (PyUnicode_CheckExact(message)) {
            /* Not PyUnicode_AsUTF8AndSize(), which caches its result in the string. */
            message = encoded = PyUnicode_AsUTF8String(message);
            if (encoded == NULL) {
                return NULL;
            }
        }
        else if (!PyBytes_CheckExact(message)) {
            PyErr_Format(
                PyExc_TypeError, "write_message() sends str and bytes, not %.100s",
                Py_TYPE(message)->tp_name);
            return NULL;
        }
        payload = PyBytes_AS_STRING(message);
        length = PyBytes_GET_SIZE(message);
    }
    Py_ssize_t taken = send_frame(fd, (int)opcode, payload, length, &size);
    Py_XDECREF(encoded);
    return taken < 0 ? NULL : pair(PyLong_FromSsize_t(size), taken);
}

/* Payloads in memory */

struct range {
    char *data;
    Py_ssize_t start, stop;
    int is_writable;
};

/* Reads the arguments (data, start, stop); the start must be at least `lowest`. */
static int
as_range(PyObject *const *arguments, Py_ssize_t lowest, struct range *range)
{
    /* Converting the numbers may run Python code that changes the data, so it comes first. */
    range->start = PyNumber_AsSsize_t(arguments[1], PyExc_ValueError);
    if (range->start == -1 && PyErr_Occurred()) {
        return 0;
    }
    range->stop = PyNumber_AsSsize_t(arguments[2], PyExc_ValueError);
    if (range->stop == -1 && PyErr_Occurred()) {
        return 0;
    }
    PyObject *object = arguments[0];
    range->is_writable = PyByteArray_Check(object);
    if (!range->is_writable && !PyBytes_Check(object)) {
        PyErr_Format(
            PyExc_TypeError, "data is bytes or bytearray, not %.100s", Py_TYPE(object)->tp_name);
        return 0;
    }
    range->data = range->is_writable ? PyByteArray_AS_STRING(object) : PyBytes_AS_STRING(object);
    Py_ssize_t size = Py_SIZE(object);
    if (range->start < lowest || range->stop < range->start || size < range->stop) {
        PyErr_Format(
            PyExc_ValueError, "no payload at %zd to %zd of %zd bytes", range->start, range->stop,
            size);
        return 0;
    }
    return 1;
}

PyDoc_STRVAR(unmask_doc,
"unmask(data, start, stop, text, /)\n--\n\n"
"Unmask the payload data[start:stop], which follows its masking key, as str or bytes.");

static PyObject *
unmask(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    struct range range;
    if (!has_arguments("unmask", 4, count)) {
        return NULL;
    }
    int is_text = PyObject_IsTrue(arguments[3]);
    if (is_text < 0 || !as_range(arguments, 4, &range)) {
        return NULL;
    }
    char *payload = range.data + range.start;
    Py_ssize_t length = range.stop - range.start;
    uint64_t mask = mask_at(payload - 4);
    if (!is_text) {
        return unmasked_bytes(payload, length, mask);
    }
    return unmasked_text(payload, length, mask, range.is_writable);
}

PyDoc_STRVAR(unmask_ascii_doc,
"unmask_ascii(data, start, stop, mask, /)\n--\n\n"
"Unmask data[start:stop]; return it as str, or None if it is not all ASCII.");

static PyObject *
unmask_ascii(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    struct range range;
    if (!has_arguments("unmask_ascii", 4, count) || !as_range(arguments, 0, &range)) {
        return NULL;
    }
    if (!PyBytes_Check(arguments[3]) || PyBytes_GET_SIZE(arguments[3]) != 4) {
        PyErr_SetString(PyExc_ValueError, "a masking key is 4 bytes");
        return NULL;
    }
    PyObject *result = unmasked_ascii(
        range.data + range.start, range.stop - range.start,
        mask_at(PyBytes_AS_STRING(arguments[3])));
    return result != NULL || PyErr_Occurred() ? result : Py_NewRef(Py_None);
}

/* The module */

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}

static PyMethodDef methods[] = {
    METHOD(read_message),
    METHOD(write_message),
    METHOD(keep_to_thread),
    METHOD(unmask),
    METHOD(unmask_ascii),
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "django_wsmux.protocol._speedups",
    .m_doc = "Fast paths for small messages, in C.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&module);
}
