/* receive(), send() and iteration of the common case.

   Each wraps the method of the same name in Python, which handles all else. */

#include "link.h"

#include <stddef.h>

/* Interned, as Python's cache of methods keeps each name that it is asked for. */
static PyObject *name_finish_send, *name_receive;

/* Methods that wrap a function */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *function, *dict;
} Method;

static PyObject *
method_with(PyTypeObject *type, PyObject *args, vectorcallfunc vectorcall)
{
    PyObject *function;
    if (!PyArg_ParseTuple(args, "O", &function)) {
        return NULL;
    }
    Method *self = (Method *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->vectorcall = vectorcall;
        self->function = Py_NewRef(function);
    }
    return (PyObject *)self;
}

static PyObject *
method_get(PyObject *self, PyObject *object, PyObject *Py_UNUSED(type))
{
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

static int
method_traverse(Method *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->function);
    Py_VISIT(self->dict);
    return 0;
}

static int
method_clear(Method *self)
{
    Py_CLEAR(self->function);
    Py_CLEAR(self->dict);
    return 0;
}

static void
method_dealloc(Method *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    method_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef method_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Method, vectorcall), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(Method, dict), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef method_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define METHOD_SPEC(type, new)                                                                     \
    static PyType_Slot new##_slots[] = {                                                           \
        {Py_tp_new, new},                                                                          \
        {Py_tp_call, PyVectorcall_Call},                                                           \
        {Py_tp_descr_get, method_get},                                                             \
        {Py_tp_traverse, method_traverse},                                                         \
        {Py_tp_clear, method_clear},                                                               \
        {Py_tp_dealloc, method_dealloc},                                                           \
        {Py_tp_members, method_members},                                                           \
        {Py_tp_getset, method_getset},                                                             \
        {0, NULL},                                                                                 \
    };                                                                                             \
    static PyType_Spec new##_spec = {                                                              \
        .name = "django_wsmux.connection._reactor." type,                                          \
        .basicsize = sizeof(Method),                                                               \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL              \
                 | Py_TPFLAGS_METHOD_DESCRIPTOR,                                                   \
        .slots = new##_slots,                                                                      \
    }

/* Receiving */

/* Waits for a message that goes to this view directly. Returns NULL without an exception if there
   is more to decide. */
static PyObject *
wait_for_message(Link *link)
{
    if (link->state != OPEN || link->is_event_driven || link->is_paused || !link->is_watched
        || has_waiter(link) || process.hub == NULL
        || process.thread != PyThread_get_thread_ident()) {
        return NULL;
    }
    int is_queued = has_items(link->inbox);
    if (is_queued != 0) {
        return NULL;
    }
    PyGreenlet *current = PyGreenlet_GetCurrent();
    if (current == NULL) {
        return NULL;
    }
    if ((PyObject *)current == process.hub || is_marked(current) != 0) {
        Py_DECREF(current);
        return NULL;
    }
    Py_XSETREF(link->waiter, (PyObject *)current);
    PyObject *message = PyGreenlet_Switch((PyGreenlet *)process.hub, NULL, NULL);
    Py_CLEAR(link->waiter);
    if (message == Py_True) {
        /* Woken: a message is queued, or the socket is closed. */
        Py_DECREF(message);
        return NULL;
    }
    if (message != NULL) {
        link->messages_in++;
    }
    return message;
}

static PyObject *
receive(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) == 1 && names == NULL && is_link(args[0])) {
        PyObject *message = wait_for_message((Link *)args[0]);
        if (message != NULL || PyErr_Occurred()) {
            return message;
        }
    }
    return PyObject_Vectorcall(((Method *)self)->function, args, flags, names);
}

static PyObject *
new_receive(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    return method_with(type, args, receive);
}

METHOD_SPEC("receive", new_receive);

/* Sending */

/* Sends a message, as much of it as the peer takes. Returns 1 if the message is done, 0 if Python
   must do it, and -1 with an exception. */
static int
send_directly(Link *link, PyObject *message)
{
    PyObject *encoded = NULL;
    const char *payload;
    Py_ssize_t length, size;
    int opcode;
    if (PyUnicode_CheckExact(message)) {
        opcode = TEXT;
        if (PyUnicode_IS_COMPACT_ASCII(message)) {
            payload = (const char *)PyUnicode_1BYTE_DATA(message);
            length = PyUnicode_GET_LENGTH(message);
        }
        else {
            /* Not PyUnicode_AsUTF8AndSize(), which caches its result in the string. */
            encoded = PyUnicode_AsUTF8String(message);
            if (encoded == NULL) {
                return -1;
            }
            payload = PyBytes_AS_STRING(encoded);
            length = PyBytes_GET_SIZE(encoded);
        }
    }
    else if (PyBytes_CheckExact(message)) {
        opcode = BINARY;
        payload = PyBytes_AS_STRING(message);
        length = PyBytes_GET_SIZE(message);
    }
    else {
        return 0;
    }
    Py_ssize_t sent = send_frame(link->direct, opcode, payload, length, &size);
    Py_XDECREF(encoded);
    if (sent == size) {
        link->messages_out++;
        link->bytes_out += size;
        return 1;
    }
    /* The rest is queued, or the connection is lost. */
    PyObject *kind = PyLong_FromLong(opcode), *part = PyLong_FromSsize_t(sent), *result = NULL;
    if (kind != NULL && part != NULL) {
        result = PyObject_CallMethodObjArgs(
            (PyObject *)link, name_finish_send, message, kind, part, NULL);
    }
    Py_XDECREF(kind);
    Py_XDECREF(part);
    Py_XDECREF(result);
    return result == NULL ? -1 : 1;
}

static PyObject *
send_message(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) == 2 && names == NULL && is_link(args[0])
        && sends_directly((Link *)args[0])) {
        int result = send_directly((Link *)args[0], args[1]);
        if (result < 0) {
            return NULL;
        }
        if (result > 0) {
            Py_RETURN_NONE;
        }
    }
    return PyObject_Vectorcall(((Method *)self)->function, args, flags, names);
}

static PyObject *
new_send(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    return method_with(type, args, send_message);
}

METHOD_SPEC("send", new_send);

/* Iteration */

typedef struct {
    PyObject_HEAD
    PyObject *link, *receive;
} Messages;

static PyTypeObject *ReceiveType;

static PyObject *
new_messages(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *link;
    if (!PyArg_ParseTuple(args, "O!", LinkType, &link)) {
        return NULL;
    }
    PyObject *receive = PyObject_GetAttr(link, name_receive);
    if (receive == NULL) {
        return NULL;
    }
    if (!PyMethod_Check(receive) || !Py_IS_TYPE(PyMethod_GET_FUNCTION(receive), ReceiveType)) {
        /* A derived class or an agent has replaced the method: call that one. */
        PyObject *iterator = PyCallIter_New(receive, Py_None);
        Py_DECREF(receive);
        return iterator;
    }
    Messages *self = (Messages *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(receive);
        return NULL;
    }
    self->link = Py_NewRef(link);
    self->receive = receive;
    return (PyObject *)self;
}

static PyObject *
messages_next(Messages *self)
{
    PyObject *message = wait_for_message((Link *)self->link);
    if (message == NULL && !PyErr_Occurred()) {
        message = PyObject_CallNoArgs(self->receive);
        if (message == Py_None) {
            Py_CLEAR(message);
        }
    }
    return message;
}

static int
messages_traverse(Messages *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->link);
    Py_VISIT(self->receive);
    return 0;
}

static void
messages_dealloc(Messages *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->link);
    Py_CLEAR(self->receive);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot messages_slots[] = {
    {Py_tp_new, new_messages},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, messages_next},
    {Py_tp_traverse, messages_traverse},
    {Py_tp_dealloc, messages_dealloc},
    {0, NULL},
};

static PyType_Spec messages_spec = {
    .name = "django_wsmux.connection._reactor.messages",
    .basicsize = sizeof(Messages),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = messages_slots,
};

int
add_method_types(PyObject *module)
{
    if (import_greenlet() < 0) {
        return -1;
    }
    name_finish_send = PyUnicode_InternFromString("_finish_send");
    name_receive = PyUnicode_InternFromString("receive");
    if (name_finish_send == NULL || name_receive == NULL) {
        return -1;
    }
    ReceiveType = (PyTypeObject *)PyType_FromModuleAndSpec(module, &new_receive_spec, NULL);
    if (ReceiveType == NULL || PyModule_AddType(module, ReceiveType) < 0) {
        return -1;
    }
    PyType_Spec *specs[] = {&new_send_spec, &messages_spec};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(specs); i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        if (type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0) {
            Py_XDECREF(type);
            return -1;
        }
        Py_DECREF(type);
    }
    return 0;
}
