/* Sends a group's message to its members; fanout.py describes how. */

#include "link.h"

/* Frames of one message that are found without a look-up, one for each kind of framing. */
enum { FORMS = 4 };

typedef struct {
    PyObject *delivery, *members, *message, *plain;
    PyObject *following, *joined; /* see serve_doc; NULL if nothing follows */
    long long newest;             /* the number of the last that follows */
    PyTypeObject *type; /* of members that are links */
    long long number;
    int is_direct; /* whether members may be served here at all */
    int forms;
    PyObject *keys[FORMS], *frames[FORMS];
} Run;

static PyObject *name_admit, *name_at, *name_encode, *name_finish_all, *name_finish_write,
    *name_key,
    *name_members, *name_message, *name_number, *name_plain, *name_serve;

/* Returns the frame of the message for a connection, or NULL if Python must encode it, perhaps with
   an exception. */
static PyObject *
frame_for(Run *run, Link *link)
{
    if (link->framing == process.plain) {
        return Py_NewRef(run->plain);
    }
    PyObject *key = PyObject_GetAttr(link->framing, name_key), *frame = NULL;
    if (key == NULL || key == Py_None) {
        Py_XDECREF(key);
        return NULL;
    }
    for (int i = 0; i < run->forms; i++) {
        if (run->keys[i] == key) {
            Py_DECREF(key);
            return Py_NewRef(run->frames[i]);
        }
    }
    frame = PyObject_CallMethodOneArg((PyObject *)link, name_encode, run->message);
    if (frame != NULL && !PyBytes_CheckExact(frame)) {
        PyErr_SetString(PyExc_TypeError, "a frame must be bytes");
        Py_CLEAR(frame);
    }
    if (frame != NULL && run->forms < FORMS) {
        run->keys[run->forms] = Py_NewRef(key);
        run->frames[run->forms++] = Py_NewRef(frame);
    }
    Py_DECREF(key);
    return frame;
}

/* Sends the message at once, as much as the peer takes. Returns 1 if it is done, 0 if Python must do
   it, and -1 with an exception. */
static int
send_at_once(Run *run, Link *link)
{
    PyObject *frame = frame_for(run, link);
    if (frame == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    /* Encoding may have changed it. */
    if (!has_nothing_unsent(link)) {
        Py_DECREF(frame);
        return 0;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(frame);
    Py_ssize_t sent = send_bytes(link->direct, PyBytes_AS_STRING(frame), size);
    int result = 1;
    link->messages_out++;
    link->bytes_out += size;
    if (sent != size) {
        PyObject *number = PyLong_FromSsize_t(sent), *done = NULL;
        PyObject *transport = Py_XNewRef(link->transport);
        if (number != NULL && transport != NULL) {
            done = PyObject_CallMethodObjArgs(transport, name_finish_write, frame, number, NULL);
        }
        result = done == NULL ? -1 : 1;
        Py_XDECREF(done);
        Py_XDECREF(number);
        Py_XDECREF(transport);
    }
    Py_DECREF(frame);
    return result;
}

/* What serve_member() returns, besides -1 with an exception. */
enum { SKIPPED, SERVED_HERE, SERVED_BY_PYTHON };

static int
may_send_at_once(Link *link)
{
    return has_nothing_unsent(link) && !link->is_intercepting
           && (link->held == NULL || link->held == Py_None);
}

static int
is_member_link(Run *run, PyObject *member)
{
    if (Py_TYPE(member) == run->type) {
        return 1;
    }
    if (!is_link(member)) {
        return 0;
    }
    run->type = Py_TYPE(member);
    return 1;
}

/* Serves one member, unless it is not owed the message any more. */
static int
serve_member(Run *run, PyObject *member)
{
    if (is_member_link(run, member)) {
        Link *link = (Link *)member;
        if (run->number > 0) {
            if (link->owed == 0 || link->given >= run->number) {
                return SKIPPED;
            }
            link->given = run->number;
            if (link->owed == run->number) {
                link->owed = 0;
            }
        }
        if (run->is_direct && may_send_at_once(link) && (run->number > 0 || link->owed == 0)) {
            int result = send_at_once(run, link);
            if (result < 0) {
                PyObject *transport = Py_XNewRef(link->transport);
                result = transport == NULL || link_failed(link, transport) < 0 ? -1 : 1;
                Py_XDECREF(transport);
            }
            if (result != 0) {
                return result < 0 ? -1 : SERVED_HERE;
            }
        }
    }
    PyObject *result = PyObject_CallMethodOneArg(run->delivery, name_serve, member);
    Py_XDECREF(result);
    return result == NULL ? -1 : SERVED_BY_PYTHON;
}

/* Whether a member is due the message and all that follow, and may get them in one write. */
static int
is_due_all(Run *run, PyObject *member)
{
    if (run->following == NULL || !run->is_direct || !is_member_link(run, member)) {
        return 0;
    }
    Link *link = (Link *)member;
    return link->given < run->number && link->owed >= run->newest
           && link->framing == process.plain && may_send_at_once(link);
}

/* Sends the message, and those that follow, in one write. Python does the rest if the peer does not
   take all of it. */
static int
serve_all(Run *run, Link *link)
{
    Py_ssize_t size = PyBytes_GET_SIZE(run->joined);
    Py_ssize_t sent = send_bytes(link->direct, PyBytes_AS_STRING(run->joined), size);
    link->given = run->newest;
    if (link->owed == run->newest) {
        link->owed = 0;
    }
    if (sent == size) {
        link->messages_out += PyTuple_GET_SIZE(run->following) + 1;
        link->bytes_out += size;
        return SERVED_HERE;
    }
    PyObject *number = PyLong_FromSsize_t(sent), *result = NULL;
    if (number != NULL) {
        result = PyObject_CallMethodObjArgs(
            run->delivery, name_finish_all, (PyObject *)link, run->following, number, NULL);
        Py_DECREF(number);
    }
    return done(result) < 0 ? -1 : SERVED_BY_PYTHON;
}

static int
serve_members(Run *run, Py_ssize_t *at, double seconds, int step)
{
    double until = now() + seconds;
    int served = 0;
    while (*at < PyList_GET_SIZE(run->members)) {
        PyObject *member = Py_NewRef(PyList_GET_ITEM(run->members, (*at)++));
        int result = is_due_all(run, member) ? serve_all(run, (Link *)member)
                                             : serve_member(run, member);
        Py_DECREF(member);
        if (result < 0) {
            return -1;
        }
        if (result == SKIPPED) {
            continue;
        }
        if (result == SERVED_BY_PYTHON || ++served == step) {
            served = 0;
            if (now() >= until) {
                break;
            }
        }
    }
    return 0;
}

static long long
number_of(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    long long number = value == NULL ? -1 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return number;
}

PyDoc_STRVAR(serve_doc,
"serve(delivery, seconds, step, following=(), joined=b'', /)\n--\n\n"
"Serve members of a delivery for a time, at least one; return whether all are served.");

/* Takes the deliveries that follow, of which the last has the highest number. */
static int
take_following(Run *run, PyObject *following, PyObject *joined)
{
    Py_ssize_t count = PyTuple_GET_SIZE(following);
    if (count > 0) {
        run->following = following;
        run->joined = joined;
        run->newest = number_of(PyTuple_GET_ITEM(following, count - 1), name_number);
    }
    return run->newest < 0 && PyErr_Occurred() ? -1 : 0;
}

static PyObject *
serve(PyObject *Py_UNUSED(module), PyObject *args)
{
    Run run = {.forms = 0};
    double seconds;
    int step;
    PyObject *result = NULL, *admit = NULL, *stopped, *following = NULL, *joined = NULL;
    if (!PyArg_ParseTuple(
            args, "Odi|O!S", &run.delivery, &seconds, &step, &PyTuple_Type, &following, &joined)) {
        return NULL;
    }
    if (joined != NULL && take_following(&run, following, joined) < 0) {
        return NULL;
    }
    Py_ssize_t at;
    if ((run.members = PyObject_GetAttr(run.delivery, name_members)) == NULL
        || (run.message = PyObject_GetAttr(run.delivery, name_message)) == NULL
        || (run.plain = PyObject_GetAttr(run.message, name_plain)) == NULL
        || (admit = PyObject_GetAttr(run.delivery, name_admit)) == NULL
        || ((run.number = number_of(run.delivery, name_number)) < 0 && PyErr_Occurred())
        || ((at = (Py_ssize_t)number_of(run.delivery, name_at)) < 0 && PyErr_Occurred())) {
        goto done;
    }
    if (!PyList_CheckExact(run.members) || !PyBytes_CheckExact(run.plain) || at < 0) {
        PyErr_SetString(PyExc_TypeError, "serve() takes a Delivery");
        goto done;
    }
    run.is_direct = is_own_thread() && (admit == Py_None || run.number == 0);
    int is_failed = serve_members(&run, &at, seconds, step) < 0;
    /* Members that an exception has kept from their turn are served next time. */
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    stopped = PyLong_FromSsize_t(at);
    if (stopped == NULL || PyObject_SetAttr(run.delivery, name_at, stopped) < 0) {
        is_failed = 1;
    }
    Py_XDECREF(stopped);
    if (type != NULL) {
        PyErr_Restore(type, error, traceback);
    }
    if (!is_failed) {
        result = PyBool_FromLong(at >= PyList_GET_SIZE(run.members));
    }
done:
    Py_XDECREF(run.members);
    Py_XDECREF(run.message);
    Py_XDECREF(run.plain);
    Py_XDECREF(admit);
    for (int i = 0; i < run.forms; i++) {
        Py_DECREF(run.keys[i]);
        Py_DECREF(run.frames[i]);
    }
    return result;
}

PyDoc_STRVAR(owe_doc,
"owe(members, start, number, /)\n--\n\n"
"Note that members, from an index on, are still to get a delivery.");

static PyObject *
owe(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *members;
    Py_ssize_t start;
    long long number;
    if (!PyArg_ParseTuple(args, "O!nL", &PyList_Type, &members, &start, &number)) {
        return NULL;
    }
    for (Py_ssize_t i = Py_MAX(start, 0); i < PyList_GET_SIZE(members); i++) {
        PyObject *member = PyList_GET_ITEM(members, i);
        if (is_link(member)) {
            Link *link = (Link *)member;
            if (link->owed == 0) {
                link->given = number - 1;
            }
            link->owed = number;
        }
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"owe", owe, METH_VARARGS, owe_doc},
    {"serve", serve, METH_VARARGS, serve_doc},
    {NULL, NULL, 0, NULL},
};

int
add_fanout(PyObject *module)
{
    const Name names[] = {
        {&name_admit, "admit"},
        {&name_at, "at"},
        {&name_encode, "_encode"},
        {&name_finish_all, "finish_all"},
        {&name_finish_write, "finish_write"},
        {&name_key, "key"},
        {&name_members, "members"},
        {&name_message, "message"},
        {&name_number, "number"},
        {&name_plain, "plain"},
        {&name_serve, "serve"},
    };
    if (intern_names(names, Py_ARRAY_LENGTH(names)) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
