/* Plain messages that arrive in parts.

   What arrives is unmasked at once, into the message itself, which grows with it: a peer that
   announces a message and does not send it takes no memory. If there is anything to decide, such
   as text beyond ASCII, which must be checked as it arrives, the codec gets the frame back. */

#include "link.h"

enum {
    LONGEST_MASKED_HEAD = LONGEST_HEAD + 4,
    LEAST_ROOM = 1024, /* for a message that has begun, unless it is shorter */
    GROWTH = 4,        /* room for so many times what has arrived: growing may copy it */
    LARGE = 65536,     /* messages of this size change how memory is allocated */
    ALONE = 131072,    /* see LARGE in codec.py */
};

struct Partial {
    PyObject *message; /* bytes, or text of ASCII; its length is the room that there is */
    Py_ssize_t length, filled;
    char key[4];
    char is_text;
};

static PyObject *name_expect_large, *name_receive;

static char *
contents(Partial *partial)
{
    return partial->is_text ? (char *)PyUnicode_1BYTE_DATA(partial->message)
                            : PyBytes_AS_STRING(partial->message);
}

/* The masking key for the next byte. */
static uint64_t
next_mask(Partial *partial)
{
    char key[4];
    for (int i = 0; i < 4; i++) {
        key[i] = partial->key[(partial->filled + i) & 3];
    }
    return mask_at(key);
}

void
drop_partial(Link *link)
{
    Partial *partial = link->partial;
    link->partial = NULL;
    if (partial != NULL) {
        Py_XDECREF(partial->message);
        PyMem_Free(partial);
    }
}

/* Makes room for more bytes. */
static int
make_room(Partial *partial, Py_ssize_t size)
{
    Py_ssize_t needed = partial->filled + size;
    Py_ssize_t room
        = partial->is_text ? PyUnicode_GET_LENGTH(partial->message) : Py_SIZE(partial->message);
    if (needed <= room) {
        return 0;
    }
    room = Py_MIN(partial->length, GROWTH * needed);
    return partial->is_text ? PyUnicode_Resize(&partial->message, room)
                            : _PyBytes_Resize(&partial->message, room);
}

/* Returns 1 if the bytes were added, 0 if they are not ASCII although they should be, and -1 with an
   exception. */
static int
append(Partial *partial, const char *data, Py_ssize_t size)
{
    if (make_room(partial, size) < 0) {
        return -1;
    }
    char *to = contents(partial) + partial->filled;
    if (!partial->is_text) {
        apply_mask(to, data, size, next_mask(partial));
    }
    else if (!unmask_ascii_to(to, data, size, next_mask(partial))) {
        return 0;
    }
    partial->filled += size;
    return 1;
}

int
begin_partial(Link *link, const char *data, Py_ssize_t size, Py_ssize_t start, Py_ssize_t length)
{
    if (length >= LARGE
        && done(PyObject_CallMethodNoArgs((PyObject *)link, name_expect_large)) < 0) {
        return -1;
    }
    Partial *partial = PyMem_Calloc(1, sizeof(Partial));
    if (partial == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    link->partial = partial;
    partial->length = length;
    partial->is_text = (data[0] & 0x0F) == TEXT;
    memcpy(partial->key, data + start - 4, 4);
    size -= start;
    Py_ssize_t room = Py_MIN(length, Py_MAX(GROWTH * size, LEAST_ROOM));
    partial->message
        = partial->is_text ? PyUnicode_New(room, 127) : PyBytes_FromStringAndSize(NULL, room);
    int result = partial->message == NULL ? -1 : append(partial, data + start, size);
    if (result <= 0) {
        drop_partial(link);
    }
    return result;
}

Py_ssize_t
rest_of_partial(Link *link)
{
    return link->partial->length - link->partial->filled;
}

Py_ssize_t
most_for_partial(Link *link)
{
    Partial *partial = link->partial;
    int is_alone = partial != NULL && !partial->is_text
                   && partial->length >= ALONE - LONGEST_MASKED_HEAD;
    return is_alone ? rest_of_partial(link) : PY_SSIZE_T_MAX;
}

int
add_to_partial(Link *link, const char *data, Py_ssize_t size)
{
    int result = size > rest_of_partial(link) ? 0 : append(link->partial, data, size);
    if (result < 0) {
        drop_partial(link); /* a message that cannot grow is gone */
    }
    if (result == 0 && give_back_partial(link) < 0) {
        return -1;
    }
    return result;
}

PyObject *
take_partial(Link *link)
{
    PyObject *message = link->partial->message;
    link->partial->message = NULL;
    drop_partial(link);
    return message;
}

/* Returns the bytes of the frame as they have arrived. */
static PyObject *
as_arrived(Partial *partial)
{
    char head[LONGEST_MASKED_HEAD];
    Py_ssize_t size = write_head(head, partial->is_text ? TEXT : BINARY, partial->length);
    head[1] |= (char)MASKED;
    memcpy(head + size, partial->key, 4);
    size += 4;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size + partial->filled);
    if (bytes != NULL) {
        memcpy(PyBytes_AS_STRING(bytes), head, size);
        apply_mask(
            PyBytes_AS_STRING(bytes) + size, contents(partial), partial->filled,
            mask_at(partial->key));
    }
    return bytes;
}

int
give_back_partial(Link *link)
{
    if (link->partial == NULL) {
        return 0;
    }
    PyObject *bytes = as_arrived(link->partial), *sink = PyList_New(0), *result = NULL;
    PyObject *codec = Py_XNewRef(link->codec);
    drop_partial(link);
    if (codec == NULL) {
        PyErr_SetString(PyExc_AttributeError, "codec");
    }
    if (bytes != NULL && sink != NULL && codec != NULL) {
        /* It has no message yet, and nothing that is wrong. */
        result = PyObject_CallMethodObjArgs(codec, name_receive, bytes, sink, NULL);
    }
    Py_XDECREF(codec);
    Py_XDECREF(bytes);
    Py_XDECREF(sink);
    return done(result);
}

int
add_partial(void)
{
    const Name names[] = {
        {&name_expect_large, "_expect_large"},
        {&name_receive, "receive"},
    };
    return intern_names(names, Py_ARRAY_LENGTH(names));
}
