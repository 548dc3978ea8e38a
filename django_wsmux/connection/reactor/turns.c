/* The turns of event views: greenlets of a pool, each of which handles one message at a time.

   connection/turns.py has the same in Python, and transports/handler_pool.py has the rest. */

#include "link.h"

#include <stddef.h>

static PyObject *name_append, *name_end, *name_fail, *name_grow, *name_prepare,
    *name_receive, *name_take_turn;

typedef struct {
    PyObject_HEAD
    PyObject *hub, *jobs;
    PyObject **parked; /* greenlets without a job; the one that was used last is the last */
    Py_ssize_t count, room;
    Py_ssize_t idle; /* the smallest count since the last end_idle() */
    Py_ssize_t size; /* the largest number of greenlets */
    Py_ssize_t alone; /* references to a greenlet in start() that no one else refers to */
    PyObject *job, *subject; /* for the greenlet that start() switches to; no job ends it */
    char is_ticking;
} Pool;

static PyTypeObject *PoolType;

static int
pool_traverse(Pool *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->hub);
    Py_VISIT(self->jobs);
    Py_VISIT(self->job);
    Py_VISIT(self->subject);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_VISIT(self->parked[i]);
    }
    return 0;
}

static void
forget_parked(Pool *self)
{
    while (self->count > 0) {
        Py_DECREF(self->parked[--self->count]);
    }
    self->idle = 0;
}

static int
pool_clear(Pool *self)
{
    forget_parked(self);
    Py_CLEAR(self->hub);
    Py_CLEAR(self->jobs);
    Py_CLEAR(self->job);
    Py_CLEAR(self->subject);
    return 0;
}

static void
pool_dealloc(Pool *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    pool_clear(self);
    PyMem_Free(self->parked);
    type->tp_free(self);
    Py_DECREF(type);
}

static int
pool_init(Pool *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *hub, *jobs;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!On", &PyGreenlet_Type, &hub, &jobs, &size)) {
        return -1;
    }
    Py_XSETREF(self->hub, Py_NewRef(hub));
    Py_XSETREF(self->jobs, Py_NewRef(jobs));
    self->size = size;
    return 0;
}

/* Switches to a parked greenlet that was removed from the pool; without a job, it ends. */
static int
resume(Pool *self, PyObject *worker, PyObject *job, PyObject *subject)
{
    Py_XSETREF(self->job, Py_XNewRef(job));
    Py_XSETREF(self->subject, Py_XNewRef(subject));
    PyObject *result = PyGreenlet_Switch((PyGreenlet *)worker, NULL, NULL);
    if (result == NULL) {
        Py_CLEAR(self->job);
        Py_CLEAR(self->subject);
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

static int
wait_in_queue(Pool *self, PyObject *job)
{
    if (self->jobs == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_jobs");
        return -1;
    }
    return done(PyObject_CallMethodOneArg(self->jobs, name_append, job));
}

/* Gives a job to a greenlet. Returns 1 if it has begun, 0 if it waits, and -1 with an exception. */
static int
start(Pool *self, PyObject *job, PyObject *subject)
{
    for (;;) {
        if (self->count == 0) {
            PyObject *grown = PyObject_CallMethodNoArgs((PyObject *)self, name_grow);
            int is_grown = grown == NULL ? -1 : PyObject_IsTrue(grown);
            Py_XDECREF(grown);
            if (is_grown < 0) {
                return -1;
            }
            if (!is_grown || self->count == 0) {
                return wait_in_queue(self, job);
            }
        }
        PyObject *worker = self->parked[--self->count];
        self->idle = Py_MIN(self->idle, self->count);
        if (self->alone == 0) {
            self->alone = Py_REFCNT(worker);
        }
        int is_alone = Py_REFCNT(worker) == self->alone;
        int result = is_alone ? resume(self, worker, job, subject)
                              : resume(self, worker, NULL, NULL);
        Py_DECREF(worker);
        if (result < 0 || is_alone) {
            return result < 0 ? -1 : 1;
        }
    }
}

/* Waits for the next job. Returns -1 with an exception. */
static int
park(Pool *self, PyGreenlet *worker)
{
    if (self->count == self->room) {
        Py_ssize_t room = self->room ? 2 * self->room : 8;
        PyObject **grown = PyMem_Resize(self->parked, PyObject *, room);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->parked = grown;
        self->room = room;
    }
    self->parked[self->count++] = Py_NewRef((PyObject *)worker);
    PyObject *result = PyGreenlet_Switch((PyGreenlet *)self->hub, NULL, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Has an event view handle a message; see Inbox.take_turn(). */
static int
handle_message(Link *link, PyObject *message)
{
    PyObject *hooks = Py_XNewRef(link->hooks), *result = NULL;
    link->messages_in++;
    if (hooks == NULL) {
        PyErr_SetString(PyExc_AttributeError, "hooks");
    }
    else {
        PyObject *args[] = {hooks, (PyObject *)link, message};
        result = PyObject_VectorcallMethod(name_receive, args, 3, NULL);
        Py_DECREF(hooks);
    }
    Py_XDECREF(result);
    int is_queued = result == NULL ? -1 : has_items(link->inbox);
    if (is_queued >= 0) {
        link->is_busy = is_queued || link->state > OPEN;
    }
    return is_queued < 0 ? -1 : link->is_busy;
}

/* Calls a job once; a connection is a job by its take_turn(). Returns whether there is more, or -1
   with an exception. */
static int
call(PyObject *job, PyObject *subject)
{
    PyObject *result;
    if (!is_link(job)) {
        result = PyObject_CallOneArg(job, subject == NULL ? Py_None : subject);
    }
    else if (subject != NULL) {
        return handle_message((Link *)job, subject);
    }
    else {
        result = PyObject_CallMethodNoArgs(job, name_take_turn);
    }
    int goes_on = result == NULL ? -1 : PyObject_IsTrue(result);
    Py_XDECREF(result);
    return goes_on;
}

/* Calls a method of the pool with the current exception, or with None. */
static int
report(Pool *self, PyObject *name)
{
    PyObject *error = take_error();
    int result = done(
        PyObject_CallMethodOneArg((PyObject *)self, name, error == NULL ? Py_None : error));
    Py_XDECREF(error);
    return result;
}

/* Does the job that start() has passed, until it is over or another one waits. Returns -1 with an
   exception that ends the greenlet. */
static int
work_on_job(Pool *self)
{
    PyObject *job = self->job, *subject = self->subject;
    self->job = self->subject = NULL;
    int result = 0, goes_on, is_waiting;
    do {
        goes_on = call(job, subject);
        Py_CLEAR(subject);
        if (goes_on < 0) {
            result = report(self, name_fail);
        }
        /* In a forked child the pool has size 0, so the job ends. */
        goes_on = goes_on > 0 && self->size > 0;
        is_waiting = has_items(self->jobs);
    } while (goes_on && !is_waiting);
    if (goes_on && is_waiting > 0) {
        result = wait_in_queue(self, job);
    }
    Py_DECREF(job);
    if (result == 0 && (is_waiting || !self->is_ticking)) {
        result = done(PyObject_CallMethodNoArgs((PyObject *)self, name_prepare));
    }
    return result;
}

/* Removes a greenlet from those without a job. Returns it, with its reference. */
static PyObject *
take_out(Pool *self, Py_ssize_t index)
{
    PyObject *worker = self->parked[index];
    self->count--;
    memmove(
        self->parked + index, self->parked + index + 1,
        (self->count - index) * sizeof(PyObject *));
    self->idle = Py_MIN(self->idle, self->count);
    return worker;
}

/* Returns where a greenlet is among those without a job, or -1. */
static Py_ssize_t
find_parked(Pool *self, PyObject *worker)
{
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if (self->parked[i] == worker) {
            return i;
        }
    }
    return -1;
}

static PyObject *
pool_work(Pool *self, PyObject *Py_UNUSED(ignored))
{
    PyGreenlet *worker = PyGreenlet_GetCurrent();
    if (worker == NULL) {
        return NULL;
    }
    int result = park(self, worker);
    while (result == 0 && self->job != NULL) {
        result = work_on_job(self);
        if (result == 0) {
            result = park(self, worker);
        }
    }
    /* An exception or other code may have resumed it. */
    Py_ssize_t index = find_parked(self, (PyObject *)worker);
    if (index >= 0) {
        Py_DECREF(take_out(self, index));
    }
    result = report(self, name_end);
    Py_DECREF(worker);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
pool_start(Pool *self, PyObject *args)
{
    PyObject *job, *subject = NULL;
    if (!PyArg_ParseTuple(args, "O|O", &job, &subject)) {
        return NULL;
    }
    int result = start(self, job, subject == Py_None ? NULL : subject);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyObject *
pool_is_parked(Pool *self, PyObject *worker)
{
    return PyBool_FromLong(find_parked(self, worker) >= 0);
}

static PyObject *
pool_end_idle(Pool *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *taken = PyList_New(0);
    if (taken == NULL) {
        return NULL;
    }
    int result = 0;
    /* Those that were not used for longest. */
    for (Py_ssize_t left = self->idle; left > 0 && self->count > 0 && result == 0; left--) {
        PyObject *worker = take_out(self, 0);
        result = PyList_Append(taken, worker);
        Py_DECREF(worker);
    }
    self->idle = self->count;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(taken) && result == 0; i++) {
        result = resume(self, PyList_GET_ITEM(taken, i), NULL, NULL);
    }
    Py_DECREF(taken);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
pool_forget_parked(Pool *self, PyObject *Py_UNUSED(ignored))
{
    forget_parked(self);
    Py_RETURN_NONE;
}

static PyMethodDef pool_methods[] = {
    {"start", (PyCFunction)pool_start, METH_VARARGS, NULL},
    {"work", (PyCFunction)pool_work, METH_NOARGS, NULL},
    {"is_parked", (PyCFunction)pool_is_parked, METH_O, NULL},
    {"end_idle", (PyCFunction)pool_end_idle, METH_NOARGS, NULL},
    {"forget_parked", (PyCFunction)pool_forget_parked, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef pool_members[] = {
    {"_hub", T_OBJECT_EX, offsetof(Pool, hub), READONLY, NULL},
    {"_jobs", T_OBJECT_EX, offsetof(Pool, jobs), READONLY, NULL},
    {"_parked_count", T_PYSSIZET, offsetof(Pool, count), READONLY, NULL},
    {"_size", T_PYSSIZET, offsetof(Pool, size), 0, NULL},
    {"_is_ticking", T_BOOL, offsetof(Pool, is_ticking), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot pool_slots[] = {
    {Py_tp_doc, "The part of a pool that each message uses: see connection/turns.py."},
    {Py_tp_init, pool_init},
    {Py_tp_traverse, pool_traverse},
    {Py_tp_clear, pool_clear},
    {Py_tp_dealloc, pool_dealloc},
    {Py_tp_methods, pool_methods},
    {Py_tp_members, pool_members},
    {0, NULL},
};

static PyType_Spec pool_spec = {
    .name = "django_wsmux.connection._reactor.Pool",
    .basicsize = sizeof(Pool),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = pool_slots,
};

/* The pool of the process */

static PyObject *
adopt_pool(PyObject *Py_UNUSED(module), PyObject *pool)
{
    if (!PyObject_TypeCheck(pool, PoolType)) {
        PyErr_SetString(PyExc_TypeError, "adopt_pool() takes a Pool");
        return NULL;
    }
    Py_XSETREF(process.pool, Py_NewRef(pool));
    Py_RETURN_NONE;
}

int
start_turn(Link *link, PyObject *message)
{
    PyObject *pool = Py_NewRef(process.pool);
    int result = start((Pool *)pool, (PyObject *)link, message);
    Py_DECREF(pool);
    return result;
}

static PyMethodDef functions[] = {
    {"adopt_pool", adopt_pool, METH_O, "Let event views handle messages in a pool's greenlets."},
    {NULL, NULL, 0, NULL},
};

int
add_turn_types(PyObject *module)
{
    const Name names[] = {
        {&name_append, "append"},
        {&name_end, "_end"},
        {&name_fail, "_fail"},
        {&name_grow, "_grow"},
        {&name_prepare, "_prepare_to_park"},
        {&name_receive, "receive"},
        {&name_take_turn, "take_turn"},
    };
    if (import_greenlet() < 0 || intern_names(names, Py_ARRAY_LENGTH(names)) < 0
        || PyModule_AddFunctions(module, functions) < 0) {
        return -1;
    }
    PoolType = (PyTypeObject *)PyType_FromModuleAndSpec(module, &pool_spec, NULL);
    return PoolType == NULL ? -1 : PyModule_AddType(module, PoolType);
}
