/* What the files of the reactor share.

   Rules of this extension:

   - C handles what is common. For all else it calls the Python of the same object: only one place
     decides what is an error.
   - A call of Python may free any object, so C holds a reference to each object that it uses
     afterwards, and looks again at what may have changed: a socket may be closed, and its
     descriptor given to another one.
   - Switching greenlets copies the C stack: nothing large lies on it.
   - The GIL is kept. The sockets never block, and releasing and taking the GIL costs more than the
     system call. */

#ifndef DJANGO_WSMUX_LINK_H
#define DJANGO_WSMUX_LINK_H

#include "../../protocol/frames.h"

#include <structmember.h>
#include <time.h>

#include <greenlet/greenlet.h>

/* States of a connection, as in interfaces.py. */
enum { CONNECTING, OPEN, CLOSING, CLOSED };

/* A frame of which a part has arrived; see partial.c. */
typedef struct Partial Partial;

/* The base of a connection; link.py describes the members. */
typedef struct {
    PyObject_HEAD
    PyObject *codec, *hooks, *options, *transport, *framing;
    PyObject *inbox, *held, *readiness, *waiter;
    Partial *partial;
    long long messages_in, bytes_in, messages_out, bytes_out;
    long long owed, given; /* see fanout.py */
    int descriptor, direct, registered;
    char state, is_alive, is_busy, is_event_driven, is_intercepting, is_paused, is_watched;
} Link;

extern PyTypeObject *LinkType;

/* The process: what adopt() has set. */
typedef struct {
    PyObject *hub;       /* the greenlet of gevent's hub, or NULL */
    PyObject *buffer;    /* a bytearray that all connections read into */
    PyObject *mark;      /* name of the attribute of greenlets that must not wait without a hook */
    PyObject *plain;     /* the framing of sockets that send messages as they are */
    PyObject *pool;      /* the greenlets of event views, or NULL */
    unsigned long thread; /* the thread of the hub */
} Process;

extern Process process;

static inline int
is_link(PyObject *object)
{
    return PyObject_TypeCheck(object, LinkType);
}

/* Whether Python's len(object) is not 0, for objects that may be missing. -1 with an exception. */
static inline int
has_items(PyObject *object)
{
    return object == NULL || object == Py_None ? 0 : PyObject_IsTrue(object);
}

static inline int
has_waiter(Link *link)
{
    return link->waiter != NULL && link->waiter != Py_None;
}

/* Whether nothing that is to be sent before waits. */
static inline int
has_nothing_unsent(Link *link)
{
    return link->direct >= 0 && link->state == OPEN;
}

/* Whether this is the thread that connections belong to. */
static inline int
is_own_thread(void)
{
    return process.thread == PyThread_get_thread_ident();
}

/* Whether messages of the view may be sent to the peer at once, as they are. */
static inline int
sends_directly(Link *link)
{
    return has_nothing_unsent(link) && !link->owed && link->framing == process.plain
           && is_own_thread();
}

/* Releases a result that is not used. Returns -1 if there is an exception instead. */
static inline int
done(PyObject *result)
{
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Returns the current exception, with its traceback, and clears it; NULL if there is none. */
static inline PyObject *
take_error(void)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    if (type != NULL) {
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL) {
            PyException_SetTraceback(error, traceback);
        }
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
}

/* Returns seconds of a clock that is never set. */
static inline double
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* A name of an attribute, and where its object is kept. */
typedef struct {
    PyObject **object;
    const char *text;
} Name;

static inline int
intern_names(const Name *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        *names[i].object = PyUnicode_InternFromString(names[i].text);
        if (*names[i].object == NULL) {
            return -1;
        }
    }
    return 0;
}

/* Whether a hook must run before this greenlet waits. -1 with an exception. */
static inline int
is_marked(PyGreenlet *greenlet)
{
    if (greenlet->dict == NULL) {
        return 0;
    }
    return PyDict_GetItemWithError(greenlet->dict, process.mark) != NULL ? 1
           : PyErr_Occurred()                                            ? -1
                                                                         : 0;
}

/* Imports greenlet's C interface for one file. Whatever is wrong with it is an ImportError: link.py
   gives it as the reason for the use of Python. */
static inline int
import_greenlet(void)
{
    PyGreenlet_Import();
    if (_PyGreenlet_API != NULL) {
        return 0;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_Format(PyExc_ImportError, "greenlet's C interface cannot be used: %S", error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return -1;
}

int add_link_type(PyObject *module);
int add_partial(void);
int add_method_types(PyObject *module);
int add_fanout(PyObject *module);
int add_reactor_type(PyObject *module);
int add_turn_types(PyObject *module);
int add_view_types(PyObject *module);

/* Handles a connection that is readable. Returns -1 with an exception that must end the process. */
int link_readable(Link *link);

/* Keeps the beginning of a plain frame: its head, of `start` bytes, and less than its payload, of
   `length` bytes. Returns 1 if it is kept, 0 if the codec must get it, and -1 with an exception. */
int begin_partial(
    Link *link, const char *data, Py_ssize_t size, Py_ssize_t start, Py_ssize_t length);

/* Returns how many bytes of the frame are still to arrive. */
Py_ssize_t rest_of_partial(Link *link);

/* Returns how many bytes to read: not more than a large frame of bytes, as in codec.py. */
Py_ssize_t most_for_partial(Link *link);

/* Adds bytes that have arrived. Returns 1 if they are kept, 0 if the codec has got what came before
   and must get these bytes, too, and -1 with an exception. */
int add_to_partial(Link *link, const char *data, Py_ssize_t size);

/* Returns the message that has arrived as a whole. */
PyObject *take_partial(Link *link);

/* Passes what has arrived of the frame to the codec. Returns -1 with an exception. */
int give_back_partial(Link *link);

void drop_partial(Link *link);

/* Passes an error in the handling of one connection to its transport. Returns -1 if the exception
   must end the process. */
int link_failed(Link *link, PyObject *transport);

/* Has an event view handle a message in a greenlet of the pool. Returns 1 if it has begun, 0 if it
   waits for a greenlet, without the message, and -1 with an exception. */
int start_turn(Link *link, PyObject *message);

/* Switches to a greenlet with one value. Returns -1 with an exception. */
int switch_to(PyObject *greenlet, PyObject *value);

#endif
