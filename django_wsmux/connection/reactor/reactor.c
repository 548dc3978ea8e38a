/* One epoll descriptor for all connections of a process, which gevent watches with one watcher.

   The kernel forgets a descriptor only when the last copy of it is closed, and reports its events
   until then: so remove() comes before a descriptor is closed or passed on. Each registration has a
   number of its own, so an event never reaches a later connection with the same descriptor. */

#include "link.h"

#ifdef __linux__

#include <sys/epoll.h>
#include <unistd.h>

/* Events that are handled before other watchers of gevent have their turn. */
enum { BATCH = 256 };

typedef struct {
    Link *link;
    uint32_t number;
} Registration;

typedef struct {
    PyObject_HEAD
    int epoll;
    int is_running;
    uint32_t number;
    Registration *registrations; /* by descriptor */
    Py_ssize_t size;
    struct epoll_event events[BATCH];
    Link *batch[BATCH];
} Reactor;

static PyObject *
reactor_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    if (!PyArg_ParseTuple(args, "")) {
        return NULL;
    }
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Reactor *self = (Reactor *)type->tp_alloc(type, 0);
    if (self == NULL) {
        close(epoll);
        return NULL;
    }
    self->epoll = epoll;
    return (PyObject *)self;
}

/* Forgets the connection of a descriptor. Returns it, with its reference, or NULL. */
static Link *
take_out(Reactor *self, Py_ssize_t descriptor)
{
    Link *link = self->registrations[descriptor].link;
    self->registrations[descriptor].link = NULL;
    if (link != NULL) {
        link->is_watched = 0;
        link->registered = -1;
    }
    return link;
}

static int
reactor_traverse(Reactor *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < self->size; i++) {
        Py_VISIT(self->registrations[i].link);
    }
    return 0;
}

static int
reactor_clear(Reactor *self)
{
    for (Py_ssize_t i = 0; i < self->size; i++) {
        Py_XDECREF(take_out(self, i));
    }
    return 0;
}

static void
reactor_dealloc(Reactor *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    reactor_clear(self);
    if (self->epoll >= 0) {
        close(self->epoll);
    }
    PyMem_Free(self->registrations);
    type->tp_free(self);
    Py_DECREF(type);
}

static int
make_room(Reactor *self, int descriptor)
{
    if (descriptor < self->size) {
        return 0;
    }
    Py_ssize_t size = Py_MAX(64, self->size);
    while (size <= descriptor) {
        size *= 2;
    }
    Registration *grown = PyMem_Resize(self->registrations, Registration, size);
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(grown + self->size, 0, (size - self->size) * sizeof(Registration));
    self->registrations = grown;
    self->size = size;
    return 0;
}

static PyObject *
reactor_add(Reactor *self, PyObject *args)
{
    Link *link;
    int descriptor;
    if (!PyArg_ParseTuple(args, "O!i", LinkType, &link, &descriptor)) {
        return NULL;
    }
    if (descriptor < 0) {
        PyErr_Format(PyExc_ValueError, "%d is no descriptor", descriptor);
        return NULL;
    }
    if (link->is_watched) {
        Py_RETURN_NONE;
    }
    if (descriptor < self->size && self->registrations[descriptor].link != NULL) {
        PyErr_Format(
            PyExc_ValueError, "descriptor %d was closed before it was removed", descriptor);
        return NULL;
    }
    uint32_t number = ++self->number;
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLRDHUP,
        .data.u64 = (uint64_t)number << 32 | (uint32_t)descriptor,
    };
    /* Before there is room for it: it may be any number that is no descriptor. */
    if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, descriptor, &event) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (make_room(self, descriptor) < 0) {
        epoll_ctl(self->epoll, EPOLL_CTL_DEL, descriptor, NULL);
        return NULL;
    }
    Registration *place = &self->registrations[descriptor];
    place->link = (Link *)Py_NewRef(link);
    place->number = number;
    link->registered = descriptor;
    link->is_watched = 1;
    Py_RETURN_NONE;
}

static PyObject *
reactor_remove(Reactor *self, PyObject *link)
{
    if (!is_link(link)) {
        PyErr_SetString(PyExc_TypeError, "remove() takes a Link");
        return NULL;
    }
    int descriptor = ((Link *)link)->registered;
    if (descriptor >= 0 && descriptor < self->size
        && self->registrations[descriptor].link == (Link *)link) {
        /* It fails only if the descriptor was closed, which has removed it. */
        epoll_ctl(self->epoll, EPOLL_CTL_DEL, descriptor, NULL);
        Py_XDECREF(take_out(self, descriptor));
    }
    Py_RETURN_NONE;
}

static PyObject *
reactor_disown(Reactor *self, PyObject *Py_UNUSED(ignored))
{
    if (self->epoll >= 0) {
        close(self->epoll);
        self->epoll = -1;
    }
    reactor_clear(self);
    Py_RETURN_NONE;
}

static PyObject *
reactor_fileno(Reactor *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->epoll);
}

/* Fetches the connections that are readable, with a reference to each. */
static int
fetch(Reactor *self)
{
    int found = epoll_wait(self->epoll, self->events, BATCH, 0), count = 0;
    if (found < 0) {
        if (errno == EINTR) {
            return 0;
        }
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    for (int i = 0; i < found; i++) {
        uint64_t data = self->events[i].data.u64;
        Py_ssize_t descriptor = (uint32_t)data;
        if (descriptor < self->size) {
            Registration *place = &self->registrations[descriptor];
            if (place->link != NULL && place->number == (uint32_t)(data >> 32)) {
                self->batch[count++] = (Link *)Py_NewRef(place->link);
            }
        }
    }
    return count;
}

static PyObject *
reactor_run(Reactor *self, PyObject *Py_UNUSED(ignored))
{
    if (self->epoll < 0 || self->is_running) {
        Py_RETURN_NONE;
    }
    int count = fetch(self);
    if (count < 0) {
        return NULL;
    }
    int result = 0;
    Py_INCREF(self); /* disown() drops the reference of the watcher */
    self->is_running = 1;
    for (int i = 0; i < count; i++) {
        Link *link = self->batch[i];
        /* An earlier one of this batch may have closed or paused it, or forked this process. */
        if (result == 0 && link->is_watched) {
            result = link_readable(link);
        }
        Py_DECREF(link);
    }
    self->is_running = 0;
    Py_DECREF(self);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef reactor_methods[] = {
    {"add", (PyCFunction)reactor_add, METH_VARARGS, NULL},
    {"remove", (PyCFunction)reactor_remove, METH_O, NULL},
    {"disown", (PyCFunction)reactor_disown, METH_NOARGS, NULL},
    {"fileno", (PyCFunction)reactor_fileno, METH_NOARGS, NULL},
    {"run", (PyCFunction)reactor_run, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reactor_slots[] = {
    {Py_tp_doc, "Watches all connections of a process: see transports/reactor.py."},
    {Py_tp_new, reactor_new},
    {Py_tp_traverse, reactor_traverse},
    {Py_tp_clear, reactor_clear},
    {Py_tp_dealloc, reactor_dealloc},
    {Py_tp_methods, reactor_methods},
    {0, NULL},
};

static PyType_Spec reactor_spec = {
    .name = "django_wsmux.connection._reactor.Reactor",
    .basicsize = sizeof(Reactor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = reactor_slots,
};

int
add_reactor_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &reactor_spec, NULL);
    int result = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return result;
}

#else

int
add_reactor_type(PyObject *Py_UNUSED(module))
{
    return 0;
}

#endif
