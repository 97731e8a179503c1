/* Cuts payload out of a batch's columns, in place, with the GIL released. Where it begins: _payload.h; how much may
 * stay: the caller. Columns as in _tpacket.c: u32 captured_bytes, u32 original_bytes, u16 flags, packets end to end.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_payload.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the columns are little endian: this kernel needs byte swapping on a big-endian host"
#endif

enum { FLAG_TRUNCATED = 1 << 6, PORT_MAP_BYTES = 65536 / 8 }; /* the flag: wire/batch.py, a test compares */

static int listed(const uint8_t *ports, uint16_t port) { return ports[port >> 3] >> (port & 7) & 1; }

/* Bytes to keep of a packet of `bytes`. `ports`: a bit per port that keeps no payload, or NULL. */
static uint32_t bytes_kept(const uint8_t *frame, uint32_t bytes, int link_type, uint32_t limit, const uint8_t *ports) {
    Payload p = payload_of(frame, bytes, link_type);
    if (ports && (p.ports == PORTS_UNKNOWN ||
                  (p.ports == PORTS_SEEN && (listed(ports, p.source) || listed(ports, p.destination)))))
        limit = 0;
    uint32_t begin = lesser(p.begin, bytes);
    return begin + lesser(limit, bytes - begin);
}

/* cut(link_type, limit, ports, captured, original, flags, data) -> (data_bytes, packets cut) */
static PyObject *cut(PyObject *module, PyObject *args) {
    (void)module;
    int link_type;
    long long limit;
    Py_buffer ports, captured, original, flags, data;
    if (!PyArg_ParseTuple(args, "iLy*w*y*w*w*", &link_type, &limit, &ports, &captured, &original, &flags, &data))
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t packets = captured.len / 4, from = 0, to = 0, changed = 0, i;
    if (captured.len % 4 || original.len != captured.len || flags.len != 2 * packets ||
        (ports.len && ports.len != PORT_MAP_BYTES)) {
        PyErr_SetString(PyExc_ValueError, "the columns differ in their number of packets, or the port map in size");
        goto done;
    }
    uint32_t most = limit < 0 || limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit;
    const uint8_t *map = ports.len ? ports.buf : NULL;
    Py_BEGIN_ALLOW_THREADS
    for (i = 0; i < packets; i++) { /* memcpy because a view may start at any address */
        uint8_t *length_at = (uint8_t *)captured.buf + 4 * i, *flags_at = (uint8_t *)flags.buf + 2 * i;
        uint32_t bytes, on_wire;
        uint16_t bits;
        memcpy(&bytes, length_at, 4);
        if ((Py_ssize_t)bytes > data.len - from) break;
        uint8_t *frame = (uint8_t *)data.buf + from;
        uint32_t keep = bytes_kept(frame, bytes, link_type, most, map);
        if (to != from) memmove((uint8_t *)data.buf + to, frame, keep);
        if (keep < bytes) {
            memcpy(length_at, &keep, 4);
            memcpy(&on_wire, (uint8_t *)original.buf + 4 * i, 4);
            memcpy(&bits, flags_at, 2);
            if (keep < on_wire) bits |= FLAG_TRUNCATED;
            memcpy(flags_at, &bits, 2);
            changed++;
        }
        from += bytes, to += keep;
    }
    Py_END_ALLOW_THREADS
    if (i < packets || from != data.len) PyErr_SetString(PyExc_ValueError, "the captured lengths aren't the data's");
    else result = Py_BuildValue("nn", to, changed);
done:
    PyBuffer_Release(&ports);
    PyBuffer_Release(&captured);
    PyBuffer_Release(&original);
    PyBuffer_Release(&flags);
    PyBuffer_Release(&data);
    return result;
}

static PyMethodDef functions[] = {
    {"cut", cut, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "agent._payload", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__payload(void) { return PyModule_Create(&definition); }
