/* Unmasking in C, for messages that do not arrive alone: the reactor unmasks those.

   Optional. Without a compiler, Python does the same; tests/protocol/test_speedups.py compares the
   two. _speedups.pyi documents the arguments and results of each function. */

#include "frames.h"

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
    .m_doc = "Unmasking, in C.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&module);
}
