/* What is around the call of an event view: its context, its time, and what it leaves behind.

   connection/turns.py has the same in Python. */

#include "link.h"

static PyObject *name_finish, *name_handle, *name_is_default, *name_modified, *name_receive,
    *name_tracer;

/* Name of the attribute of greenlets that has their contexts, and the variables of tracing.py. */
static PyObject *name_contexts, *tracing;

/* The histogram; counters.py describes it. */
static const double bounds[] = {0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0};
/* Py_ARRAY_LENGTH() is no constant since Python 3.13. */
static long long calls[sizeof(bounds) / sizeof(bounds[0]) + 1];
static double total;

static void
note_time(double seconds)
{
    size_t bucket = 0;
    while (bucket < Py_ARRAY_LENGTH(bounds) && seconds > bounds[bucket]) {
        bucket++;
    }
    calls[bucket]++;
    total += seconds;
}

static PyObject *
handled(PyObject *Py_UNUSED(module), PyObject *seconds)
{
    double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    note_time(value);
    Py_RETURN_NONE;
}

static PyObject *
handler_calls(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(Py_ARRAY_LENGTH(calls));
    if (list == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(calls); i++) {
        PyObject *number = PyLong_FromLongLong(calls[i]);
        if (number == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, number);
    }
    return Py_BuildValue("Nd", list, total);
}

/* The hooks of a connection whose view is called here */

typedef struct {
    PyObject_HEAD
    PyObject *view, *request_context, *session;
} ViewHooks;

static int
hooks_traverse(ViewHooks *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->view);
    Py_VISIT(self->request_context);
    Py_VISIT(self->session);
    return 0;
}

static int
hooks_clear(ViewHooks *self)
{
    Py_CLEAR(self->view);
    Py_CLEAR(self->request_context);
    Py_CLEAR(self->session);
    return 0;
}

static void
hooks_dealloc(ViewHooks *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    hooks_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Whether an attribute of an object is true; -1 with an exception. */
static int
is_true(PyObject *object, PyObject *name)
{
    Py_INCREF(object);
    PyObject *value = PyObject_GetAttr(object, name);
    int result = value == NULL ? -1 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    Py_DECREF(object);
    return result;
}

/* Returns the context for the call of a view: a new one, or a copy of the one that the greenlet has
   prepared for the connection. Returns NULL if Python must prepare it or do more, perhaps with an
   exception that Python will find, too. */
static PyObject *
new_context(PyGreenlet *current, PyObject *request_context)
{
    if (process.mark == NULL || tracing == NULL || request_context == NULL
        || request_context == Py_None || is_marked(current) != 0
        || PyDict_GetItemWithError(tracing, name_tracer) != Py_None) {
        return NULL;
    }
    int is_default = is_true(request_context, name_is_default);
    if (is_default != 0) {
        return is_default < 0 ? NULL : PyContext_New();
    }
    PyObject *contexts
        = current->dict == NULL ? NULL : PyDict_GetItemWithError(current->dict, name_contexts);
    if (contexts == NULL || !PyDict_CheckExact(contexts)) {
        return NULL;
    }
    PyObject *context = PyDict_GetItemWithError(contexts, request_context);
    return context != NULL && PyContext_CheckExact(context) ? PyContext_Copy(context) : NULL;
}

static PyObject *
call_in(PyObject *context, PyObject *view, PyObject *message)
{
    if (PyContext_Enter(context) < 0) {
        return NULL;
    }
    PyObject *args[] = {view, message};
    double started = now();
    PyObject *result = PyObject_VectorcallMethod(name_receive, args, 2, NULL);
    note_time(now() - started);
    if (PyContext_Exit(context) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

/* Whether nothing is left to do after the view has returned. */
static int
is_finished(ViewHooks *self, PyGreenlet *current, PyObject *result)
{
    if (result != Py_None) {
        return 0;
    }
    int is_done = is_marked(current) == 0
                  && (self->session == NULL || self->session == Py_None
                      || is_true(self->session, name_modified) == 0);
    PyErr_Clear(); /* Python finds the same error, and logs it */
    return is_done;
}

/* Lets Python do the rest, with the result of the view, or its exception. */
static PyObject *
finish(ViewHooks *self, PyObject *websocket, PyObject *view, PyObject *result, PyObject *context)
{
    PyObject *error = take_error();
    PyObject *function = NULL;
    if (error == NULL) {
        function = PyObject_GetAttr(view, name_receive);
        error = take_error();
    }
    PyObject *answer = PyObject_CallMethodObjArgs(
        (PyObject *)self, name_finish, websocket, function == NULL ? Py_None : function,
        result == NULL ? Py_None : result, error == NULL ? Py_None : error, context, NULL);
    Py_XDECREF(function);
    Py_XDECREF(error);
    return answer;
}

static PyObject *
hooks_receive(ViewHooks *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "receive() takes 2 arguments, not %zd", count);
    }
    PyObject *websocket = args[0], *message = args[1];
    PyGreenlet *current = PyGreenlet_GetCurrent();
    if (current == NULL) {
        return NULL;
    }
    PyObject *answer = NULL;
    PyObject *view = Py_XNewRef(self->view);
    PyObject *context
        = view == NULL || view == Py_None ? NULL : new_context(current, self->request_context);
    if (context != NULL) {
        PyObject *result = call_in(context, view, message);
        if (is_finished(self, current, result)) {
            answer = Py_NewRef(Py_None);
        }
        else {
            answer = finish(self, websocket, view, result, context);
        }
        Py_XDECREF(result);
        Py_DECREF(context);
    }
    else {
        PyErr_Clear();
        PyObject *more[] = {(PyObject *)self, websocket, message};
        answer = PyObject_VectorcallMethod(name_handle, more, 3, NULL);
    }
    Py_XDECREF(view);
    Py_DECREF(current);
    return answer;
}

static PyMethodDef hooks_methods[] = {
    {"receive", (PyCFunction)(void (*)(void))hooks_receive, METH_FASTCALL,
     "receive(websocket, message, /)\n--\n\nHave an event view handle a message."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef hooks_members[] = {
    {"view", T_OBJECT, offsetof(ViewHooks, view), 0, NULL},
    {"request_context", T_OBJECT, offsetof(ViewHooks, request_context), 0, NULL},
    {"session", T_OBJECT, offsetof(ViewHooks, session), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot hooks_slots[] = {
    {Py_tp_doc, "The members of the hooks that C uses: see connection/turns.py."},
    {Py_tp_traverse, hooks_traverse},
    {Py_tp_clear, hooks_clear},
    {Py_tp_dealloc, hooks_dealloc},
    {Py_tp_methods, hooks_methods},
    {Py_tp_members, hooks_members},
    {0, NULL},
};

static PyType_Spec hooks_spec = {
    .name = "django_wsmux.connection._reactor.ViewHooks",
    .basicsize = sizeof(ViewHooks),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = hooks_slots,
};

static PyObject *
adopt_views(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *contexts, *module;
    if (!PyArg_ParseTuple(args, "UO!", &contexts, &PyModule_Type, &module)) {
        return NULL;
    }
    Py_INCREF(contexts);
    PyUnicode_InternInPlace(&contexts);
    Py_XSETREF(name_contexts, contexts);
    Py_XSETREF(tracing, Py_NewRef(PyModule_GetDict(module)));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"adopt_views", adopt_views, METH_VARARGS, "Call event views in the contexts of greenlets."},
    {"handled", handled, METH_O, "Record how long a handler of an event view took."},
    {"handler_calls", handler_calls, METH_NOARGS, "Return calls in each bucket, and their time."},
    {NULL, NULL, 0, NULL},
};

int
add_view_types(PyObject *module)
{
    const Name names[] = {
        {&name_finish, "_finish"},
        {&name_handle, "_handle"},
        {&name_is_default, "is_default"},
        {&name_modified, "modified"},
        {&name_receive, "receive"},
        {&name_tracer, "tracer"},
    };
    if (import_greenlet() < 0 || intern_names(names, Py_ARRAY_LENGTH(names)) < 0
        || PyModule_AddFunctions(module, functions) < 0) {
        return -1;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &hooks_spec, NULL);
    int result = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return result;
}
