/* Packets of a batch to observations: columns in, columns out, in one call that releases the interpreter's lock.
 *
 * _observation.h says which columns, _walk.h how a frame is read, _identity.h what flows and fingerprints are made of.
 * Columns in are little endian on every machine (wire/body.py), columns out are the machine's own. Limited API of 3.11:
 * one build for every later Python. The stub is _observe.pyi.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_identity.h"

#define ONE(type, name, numpy) 1 +
enum { COLUMN_COUNT = COLUMNS(ONE) 0 };
#undef ONE
#define SIZE(type, name, numpy) sizeof(type) +
enum { ROW_BYTES = COLUMNS(SIZE) 0 };
#undef SIZE

static uint32_t little32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* A row to its place in each column. */
static void put(uint8_t *out, size_t packets, size_t row, const Observation *o) {
#define PUT(type, name, numpy) \
    memcpy(out + row * sizeof(type), &o->name, sizeof(type)); \
    out += packets * sizeof(type);
    COLUMNS(PUT)
#undef PUT
}

/* Whether the lengths are those of the packets in the data, each bounded so that no sum of two can wrap. */
static const char *contradiction(const Py_buffer *captured, const Py_buffer *original, const Py_buffer *data) {
    uint64_t sum = 0;
    if (captured->len % 4 || original->len != captured->len) return "the columns' lengths differ";
    for (Py_ssize_t i = 0; i < captured->len / 4; i++) {
        uint32_t bytes = little32((const uint8_t *)captured->buf + 4 * i);
        if (bytes > 262144) return "a captured length is over its bound";
        sum += bytes;
    }
    return sum == (uint64_t)data->len ? NULL : "the captured lengths don't add up to the data";
}

static void observe_all(const Py_buffer *captured, const Py_buffer *original, const Py_buffer *data, uint8_t *out,
                        int link_type, HashKey key, Flow *flows) {
    size_t packets = (size_t)captured->len / 4;
    uint64_t at = 0;
    for (size_t i = 0; i < packets; i++) {
        Observation seen = {0};
        uint32_t bytes = little32((const uint8_t *)captured->buf + 4 * i);
        uint32_t length = little32((const uint8_t *)original->buf + 4 * i);
        const uint8_t *frame = (const uint8_t *)data->buf + at;
        Walk w = {frame, bytes, length > bytes ? length : bytes, 0, &seen};
        if (w.end > INT32_MAX) w.end = INT32_MAX; /* so that no end of a layer wraps either */
        seen.packet_offset = at;
        walk(&w, link_type);
        name_flow(&seen, key, flows);
        fingerprint(&seen, frame, bytes, key);
        put(out, packets, i, &seen);
        at += bytes;
    }
}

static PyObject *observe(PyObject *module, PyObject *args) {
    (void)module;
    int link_type;
    Py_buffer captured, original, data, secret, out;
    if (!PyArg_ParseTuple(args, "iy*y*y*y*w*:observe", &link_type, &captured, &original, &data, &secret, &out))
        return NULL;
    const char *error = NULL;
    Flow *flows = PyMem_Calloc(REMEMBERED_FLOWS, sizeof *flows);
    if (!flows) error = "";
    else if (secret.len != 16) error = "the key isn't 16 bytes long";
    else {
        Py_BEGIN_ALLOW_THREADS
        error = contradiction(&captured, &original, &data);
        if (!error && out.len != captured.len / 4 * ROW_BYTES) error = "the room isn't that of the packets' rows";
        if (!error) {
            HashKey key = {word64(secret.buf), word64((const uint8_t *)secret.buf + 8)};
            observe_all(&captured, &original, &data, out.buf, link_type, key, flows);
        }
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(flows);
    PyBuffer_Release(&captured);
    PyBuffer_Release(&original);
    PyBuffer_Release(&data);
    PyBuffer_Release(&secret);
    PyBuffer_Release(&out);
    if (error && !*error) return PyErr_NoMemory();
    if (error) {
        PyErr_SetString(PyExc_ValueError, error);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *layout(PyObject *module, PyObject *args) {
    (void)module, (void)args;
    static const char *const names[][2] = {
#define NAME(type, name, numpy) {#name, numpy},
        COLUMNS(NAME)
#undef NAME
    };
    PyObject *all = PyTuple_New(COLUMN_COUNT);
    for (Py_ssize_t i = 0; all && i < COLUMN_COUNT; i++) {
        PyObject *one = Py_BuildValue("ss", names[i][0], names[i][1]);
        if (!one || PyTuple_SetItem(all, i, one)) Py_CLEAR(all);
    }
    return all;
}

static PyObject *fingerprint_of(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data, secret;
    if (!PyArg_ParseTuple(args, "y*y*:siphash13", &data, &secret)) return NULL;
    PyObject *hash = NULL;
    if (secret.len != 16 || data.len > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "the key isn't 16 bytes long, or the data is over 2 GB");
    } else {
        HashKey key = {word64(secret.buf), word64((const uint8_t *)secret.buf + 8)};
        hash = PyLong_FromUnsignedLongLong(siphash13(key, data.buf, (uint32_t)data.len));
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&secret);
    return hash;
}

static PyMethodDef functions[] = {
    {"observe", observe, METH_VARARGS, NULL},
    {"layout", layout, METH_NOARGS, NULL},
    {"siphash13", fingerprint_of, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_observe", NULL, 0, functions, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__observe(void) { return PyModuleDef_Init(&definition); }
