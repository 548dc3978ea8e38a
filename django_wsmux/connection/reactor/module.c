/* The module _reactor; _reactor.pyi documents it. */

#include "link.h"

PyDoc_STRVAR(adopt_doc,
"adopt(hub, buffer, mark, plain, /)\n--\n\n"
"Serve the connections of this thread.");

static PyObject *
adopt(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *hub, *buffer, *mark, *plain;
    if (!PyArg_ParseTuple(
            args, "O!O!UO", &PyGreenlet_Type, &hub, &PyByteArray_Type, &buffer, &mark, &plain)) {
        return NULL;
    }
    if (PyByteArray_GET_SIZE(buffer) == 0) {
        PyErr_SetString(PyExc_ValueError, "adopt() needs a buffer to read into");
        return NULL;
    }
    Py_XSETREF(process.hub, Py_NewRef(hub));
    Py_XSETREF(process.buffer, Py_NewRef(buffer));
    Py_INCREF(mark);
    PyUnicode_InternInPlace(&mark);
    Py_XSETREF(process.mark, mark);
    Py_XSETREF(process.plain, Py_NewRef(plain));
    process.thread = PyThread_get_thread_ident();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(forget_doc,
"forget(/)\n--\n\n"
"Forget the thread of adopt(), in a forked child.");

static PyObject *
forget(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(process.hub);
    Py_CLEAR(process.pool);
    process.thread = 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(readable_doc,
"readable(link, /)\n--\n\n"
"Read once from a connection, and pass on what arrives.");

static PyObject *
readable(PyObject *Py_UNUSED(module), PyObject *link)
{
    if (!is_link(link)) {
        PyErr_SetString(PyExc_TypeError, "readable() takes a Link");
        return NULL;
    }
    if (link_readable((Link *)link) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"adopt", adopt, METH_VARARGS, adopt_doc},
    {"forget", forget, METH_NOARGS, forget_doc},
    {"readable", readable, METH_O, readable_doc},
    {NULL, NULL, 0, NULL},
};

/* Types, names and the hub are those of the process. So only one module can exist, in the main
   interpreter; where others load it (mod_wsgi has subinterpreters), link.py uses Python. */
static int
fill(PyObject *module)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "this is a subinterpreter");
        return -1;
    }
    if (LinkType != NULL) {
        PyErr_SetString(PyExc_ImportError, "this process has loaded it before");
        return -1;
    }
    if (import_greenlet() < 0 || add_link_type(module) < 0 || add_partial() < 0
        || add_method_types(module) < 0) {
        return -1;
    }
    if (add_turn_types(module) < 0 || add_view_types(module) < 0 || add_fanout(module) < 0) {
        return -1;
    }
    return add_reactor_type(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "django_wsmux.connection._reactor",
    .m_doc = "The reactor in C: see connection/link.py.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__reactor(void)
{
    return PyModuleDef_Init(&definition);
}
