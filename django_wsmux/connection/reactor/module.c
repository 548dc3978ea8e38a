/* The module django_wsmux.connection._reactor.

   Optional. Without a compiler, Python does the same; see connection/link.py.
*/

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <greenlet/greenlet.h>

/* Import greenlet's C interface. Whatever is wrong with it is an ImportError: link.py gives it as the
   reason for the use of Python. */
static int
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

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "django_wsmux.connection._reactor",
    .m_size = 0,
};

PyMODINIT_FUNC
PyInit__reactor(void)
{
    if (import_greenlet() < 0) {
        return NULL;
    }
    return PyModule_Create(&module);
}
