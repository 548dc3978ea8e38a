/* The base type of connections, and what happens when one is readable. */

#include "link.h"

PyTypeObject *LinkType;
Process process;

static PyObject *name_close_fd, *name_failed, *name_max_single_frame, *name_message_received,
    *name_readable, *name_received, *name_start_turn;

/* The type */

static PyObject *
link_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Link *self = (Link *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->descriptor = self->direct = self->registered = -1;
        self->is_alive = 1;
    }
    return (PyObject *)self;
}

/* object.__init__() would refuse the arguments of derived classes. */
static int
link_init(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return 0;
}

static int
link_traverse(Link *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->codec);
    Py_VISIT(self->hooks);
    Py_VISIT(self->options);
    Py_VISIT(self->transport);
    Py_VISIT(self->framing);
    Py_VISIT(self->inbox);
    Py_VISIT(self->held);
    Py_VISIT(self->readiness);
    Py_VISIT(self->waiter);
    return 0;
}

static int
link_clear(Link *self)
{
    Py_CLEAR(self->codec);
    Py_CLEAR(self->hooks);
    Py_CLEAR(self->options);
    Py_CLEAR(self->transport);
    Py_CLEAR(self->framing);
    Py_CLEAR(self->inbox);
    Py_CLEAR(self->held);
    Py_CLEAR(self->readiness);
    Py_CLEAR(self->waiter);
    return 0;
}

static void
link_dealloc(Link *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    link_clear(self);
    drop_partial(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
link_give_back(Link *self, PyObject *Py_UNUSED(ignored))
{
    if (give_back_partial(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef link_methods[] = {
    {"_give_back", (PyCFunction)link_give_back, METH_NOARGS,
     "Pass what has arrived of a frame to the codec."},
    {NULL, NULL, 0, NULL},
};

#define OBJECT(name, member) {name, T_OBJECT, offsetof(Link, member), 0, NULL}
#define REQUIRED(name, member) {name, T_OBJECT_EX, offsetof(Link, member), 0, NULL}
#define COUNTER(name, member) {name, T_LONGLONG, offsetof(Link, member), 0, NULL}
#define FLAG(name, member) {name, T_BOOL, offsetof(Link, member), 0, NULL}

static PyMemberDef link_members[] = {
    REQUIRED("codec", codec),
    REQUIRED("hooks", hooks),
    REQUIRED("options", options),
    REQUIRED("_transport", transport),
    REQUIRED("_framing", framing),
    OBJECT("_inbox", inbox),
    OBJECT("_held", held),
    OBJECT("_readiness", readiness),
    OBJECT("_waiter", waiter),
    COUNTER("_messages_in", messages_in),
    COUNTER("_bytes_in", bytes_in),
    COUNTER("_messages_out", messages_out),
    COUNTER("_bytes_out", bytes_out),
    COUNTER("_owed", owed),
    COUNTER("_given", given),
    {"_descriptor", T_INT, offsetof(Link, descriptor), 0, NULL},
    {"_direct", T_INT, offsetof(Link, direct), 0, NULL},
    {"_state", T_BYTE, offsetof(Link, state), 0, NULL},
    FLAG("_is_alive", is_alive),
    FLAG("_is_busy", is_busy),
    FLAG("is_event_driven", is_event_driven),
    FLAG("_is_intercepting", is_intercepting),
    FLAG("_is_paused", is_paused),
    FLAG("_is_watched", is_watched),
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot link_slots[] = {
    {Py_tp_doc, "The members of a connection that C uses: see connection/link.py."},
    {Py_tp_new, link_new},
    {Py_tp_init, link_init},
    {Py_tp_traverse, link_traverse},
    {Py_tp_clear, link_clear},
    {Py_tp_dealloc, link_dealloc},
    {Py_tp_methods, link_methods},
    {Py_tp_members, link_members},
    {0, NULL},
};

static PyType_Spec link_spec = {
    .name = "django_wsmux.connection._reactor.Link",
    .basicsize = sizeof(Link),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = link_slots,
};

/* Reading */

int
switch_to(PyObject *greenlet, PyObject *value)
{
    PyObject *args = PyTuple_Pack(1, value);
    if (args == NULL) {
        return -1;
    }
    PyObject *result = PyGreenlet_Switch((PyGreenlet *)greenlet, args, NULL);
    Py_DECREF(args);
    if (result == NULL) {
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

int
link_failed(Link *link, PyObject *transport)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *error = take_error();
    PyObject *result
        = PyObject_CallMethodObjArgs(transport, name_failed, (PyObject *)link, error, NULL);
    Py_XDECREF(error);
    return done(result);
}

/* Reads once into the buffer of the process. Returns the size, 0 at the end of the stream;
   NOTHING_YET; or LOST. */
static Py_ssize_t
read_bytes(int descriptor, Py_ssize_t most)
{
    Py_ssize_t size;
    do {
        size = recv(
            descriptor, PyByteArray_AS_STRING(process.buffer),
            Py_MIN(PyByteArray_GET_SIZE(process.buffer), most), MSG_DONTWAIT);
    } while (size < 0 && errno == EINTR);
    if (size >= 0) {
        return size;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? NOTHING_YET : LOST;
}

/* Returns the message if the bytes in the buffer are exactly one in one plain frame, or the rest of
   one. Returns NULL for all else, perhaps with an exception; `is_kept` then tells whether the bytes
   are kept for a message that is still arriving. */
static PyObject *
message_of(Link *link, Py_ssize_t size, Py_ssize_t limit, int *is_kept)
{
    char *data = PyByteArray_AS_STRING(process.buffer);
    *is_kept = 0;
    if (link->partial != NULL) {
        if (size > 0) {
            *is_kept = add_to_partial(link, data, size) > 0;
        }
        return *is_kept && rest_of_partial(link) == 0 ? take_partial(link) : NULL;
    }
    Py_ssize_t length, start = start_of_payload(data, size, limit, &length);
    if (start == 0 || length < size - start) {
        return NULL;
    }
    if (length > size - start) {
        /* Python pauses reading while messages of groups wait for the view, whatever arrives. */
        *is_kept = link->state == OPEN && !link->is_intercepting
                   && begin_partial(link, data, size, start, length) > 0;
        return NULL;
    }
    char *payload = data + start;
    uint64_t mask = mask_at(payload - 4);
    if (((unsigned char)data[0] & 0x0F) == BINARY) {
        return unmasked_bytes(payload, length, mask);
    }
    PyObject *text = unmasked_text(payload, length, mask, 1);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear(); /* the codec decides what this is */
    }
    return text;
}

/* Passes a message that arrived alone to the view. */
static int
pass_on(Link *link, PyObject *transport, PyObject *message)
{
    if (link->state == OPEN && !link->is_busy) {
        int is_queued = has_items(link->inbox);
        if (is_queued < 0) {
            return -1;
        }
        if (!is_queued && has_waiter(link)) {
            PyObject *waiter = link->waiter;
            link->waiter = NULL;
            int result = switch_to(waiter, message);
            Py_DECREF(waiter);
            return result;
        }
        if (!is_queued && link->is_event_driven) {
            link->is_busy = 1;
            if (process.pool == NULL) {
                return done(PyObject_CallMethodOneArg(transport, name_start_turn, message));
            }
            int is_started = start_turn(link, message);
            if (is_started != 0) {
                return is_started < 0 ? -1 : 0;
            }
        }
    }
    return done(PyObject_CallMethodOneArg((PyObject *)link, name_message_received, message));
}

static int
read_directly(Link *link, PyObject *transport, Py_ssize_t limit)
{
    Py_ssize_t size = read_bytes(link->descriptor, most_for_partial(link));
    if (size == NOTHING_YET) {
        return 0;
    }
    if (size == LOST) {
        return done(PyObject_CallMethodNoArgs(transport, name_close_fd));
    }
    int is_kept;
    PyObject *message = message_of(link, size, limit, &is_kept);
    if (message == NULL) {
        if (PyErr_Occurred()) {
            return -1;
        }
        if (is_kept) {
            link->is_alive = 1;
            link->bytes_in += size;
            return 0;
        }
        PyObject *number = PyLong_FromSsize_t(size), *result = NULL;
        if (number != NULL) {
            result = PyObject_CallMethodObjArgs(transport, name_received, number, Py_False, NULL);
            Py_DECREF(number);
        }
        return done(result);
    }
    link->is_alive = 1;
    link->bytes_in += size;
    int result = pass_on(link, transport, message);
    Py_DECREF(message);
    return result;
}

int
link_readable(Link *link)
{
    PyObject *transport = Py_XNewRef(link->transport);
    if (transport == NULL) {
        return 0;
    }
    int result;
    Py_ssize_t limit = -1;
    if (link->owed) {
        give_back_partial(link);
    }
    else if (link->descriptor >= 0 && link->codec != NULL && process.buffer != NULL) {
        PyObject *codec = Py_NewRef(link->codec);
        PyObject *number = PyObject_GetAttr(codec, name_max_single_frame);
        limit = number == NULL ? -1 : PyNumber_AsSsize_t(number, NULL);
        Py_XDECREF(number);
        Py_DECREF(codec);
    }
    if (PyErr_Occurred()) {
        result = -1;
    }
    else if (limit >= 0) {
        result = read_directly(link, transport, limit);
    }
    else {
        result = done(PyObject_CallMethodNoArgs(transport, name_readable));
    }
    if (result < 0) {
        result = link_failed(link, transport);
    }
    Py_DECREF(transport);
    return result;
}

int
add_link_type(PyObject *module)
{
    if (import_greenlet() < 0) {
        return -1;
    }
    const Name names[] = {
        {&name_close_fd, "_close_fd"},
        {&name_failed, "_fail"},
        {&name_max_single_frame, "max_single_frame"},
        {&name_message_received, "message_received"},
        {&name_readable, "_readable"},
        {&name_received, "_received"},
        {&name_start_turn, "_start_turn"},
    };
    if (intern_names(names, Py_ARRAY_LENGTH(names)) < 0) {
        return -1;
    }
    LinkType = (PyTypeObject *)PyType_FromModuleAndSpec(module, &link_spec, NULL);
    return LinkType == NULL ? -1 : PyModule_AddType(module, LinkType);
}
