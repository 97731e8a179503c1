/* Packets out of libpcap's hands into a batch's columns: the callback of pcap_dispatch, without Python per packet.
 *
 * This file isn't linked with libpcap and needs none of its headers: it is given the addresses of two of its functions
 * (agent/libpcap.py knows the library). pcap_dispatch and a callback rather than pcap_next_ex: on a TPACKET_V3 ring the
 * latter hands a block back to the kernel before its last packet has been looked at (pcap_read_linux_mmap_v3 in
 * pcap-linux.c). A packet that doesn't fit into the batch any more can't be given back, so it is held for the next one.
 * Columns and filter epochs: _batch.h.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <winsock2.h> /* struct timeval */
#else
#include <sys/time.h>
#endif

#include "_batch.h"
#include "_own_traffic.h"

enum { MAX_CAPTURED = 262144 + 4 }; /* libpcap's bound, and the tag that it puts back in */

typedef struct { /* struct pcap_pkthdr (pcap/pcap.h); what macOS has behind it isn't looked at */
    struct timeval stamp;
    uint32_t captured, original;
} PacketHeader;

typedef int (*Dispatch)(void *handle, int count, void (*take)(uint8_t *, const PacketHeader *, const uint8_t *),
                        uint8_t *user);
typedef void (*BreakLoop)(void *handle);

/* A handle's reader: filter epochs, the packet held back, counters. Python serialises everything but `dispatch`, which
 * runs without the GIL: what both touch (epochs, counters) is atomic. */
typedef struct {
    PyObject_HEAD
    Dispatch dispatch;
    BreakLoop break_loop;
    int dispatching, ethernet;
    uint32_t fraction_ns; /* nanoseconds in a unit of tv_usec: 1 or 1000 */
    uint64_t captured, own, invalid;
    Epochs epochs;
    uint8_t *held; /* MAX_CAPTURED bytes */
    int holds;
    PacketHeader held_header;
    /* while dispatching */
    void *handle;
    const uint8_t *own_entries;
    Py_ssize_t own_count;
    Columns out;
    int end;
} Walk;

/* END_TIME: taken (or counted and left out); END_FULL, END_EPOCH: there is no place for it in this batch. */
static int place(Walk *w, const PacketHeader *h, const uint8_t *frame) {
    uint64_t timestamp_ns = (uint64_t)h->stamp.tv_sec * 1000000000u + (uint64_t)h->stamp.tv_usec * w->fraction_ns;
    uint32_t snaplen;
    uint16_t flags = 0;
    if (h->captured > MAX_CAPTURED || h->captured > h->original || h->stamp.tv_sec < 0 || h->stamp.tv_usec < 0) {
        ATOMIC_SET(w->invalid, w->invalid + 1);
        return END_TIME;
    }
    if (!epochs_enter(&w->epochs, timestamp_ns, w->out.packets > 0, &snaplen, &flags)) return END_EPOCH;
    if (w->own_count && is_own(frame, h->captured, w->ethernet, w->own_entries, w->own_count)) {
        ATOMIC_SET(w->own, w->own + 1);
        return END_TIME;
    }
    uint32_t keep = least(h->captured, snaplen);
    if (is_full(&w->out, keep)) return END_FULL;
    keep = least(keep, (uint32_t)(w->out.data.len - w->out.bytes));
    memcpy((uint8_t *)w->out.data.buf + w->out.bytes, frame, keep);
    put_numbers(&w->out, timestamp_ns, keep, h->original, flags);
    ATOMIC_SET(w->captured, w->captured + 1);
    return END_TIME;
}

static void take(uint8_t *user, const PacketHeader *h, const uint8_t *frame) {
    Walk *w = (Walk *)user;
    if (w->holds) { /* the loop was told to end: libpcap looks before each packet, a driver of somebody else's may not */
        ATOMIC_SET(w->invalid, w->invalid + 1);
        return;
    }
    int end = place(w, h, frame);
    if (end == END_TIME) return;
    memcpy(w->held, frame, h->captured);
    w->held_header = *h, w->holds = 1, w->end = end;
    w->break_loop(w->handle);
}

static PyObject *walk_dispatch(PyObject *self, PyObject *args) {
    Walk *w = (Walk *)self;
    unsigned long long handle;
    Py_ssize_t packets, bytes;
    PyObject *target, *result = NULL;
    Py_buffer own;
    if (!PyArg_ParseTuple(args, "Ky*Onn", &handle, &own, &target, &packets, &bytes)) return NULL;
    if (w->dispatching) {
        PyErr_SetString(PyExc_RuntimeError, "another thread reads this handle");
    } else if (columns_from(&w->out, target, 1) == 0) {
        if (packets < 0 || packets > w->out.capacity || bytes < 0 || bytes > w->out.data.len) {
            PyErr_SetString(PyExc_ValueError, "more is filled than the columns hold");
        } else {
            int done = 0;
            w->dispatching = 1;
            w->handle = (void *)(uintptr_t)handle, w->out.packets = packets, w->out.bytes = bytes;
            w->own_entries = own.buf, w->own_count = own.len / OWN_ENTRY_BYTES, w->end = END_TIME;
            Py_BEGIN_ALLOW_THREADS
            if (w->holds) {
                w->end = place(w, &w->held_header, w->held);
                w->holds = w->end != END_TIME;
            }
            Py_ssize_t room = w->out.capacity - w->out.packets;
            if (!w->holds && room > 0)
                done = w->dispatch(w->handle, room < 65536 ? (int)room : 65536, take, (uint8_t *)w);
            else if (!w->holds)
                w->end = END_FULL;
            Py_END_ALLOW_THREADS
            w->dispatching = 0;
            const Epoch *e = epochs_current(&w->epochs);
            result = Py_BuildValue("nniiII", w->out.packets, w->out.bytes, w->end, done, e->number, e->snaplen);
        }
        columns_release(&w->out);
    }
    PyBuffer_Release(&own);
    return result;
}

static PyObject *walk_swap(PyObject *self, PyObject *args) {
    unsigned long long start_ns;
    unsigned int snaplen, number;
    if (!PyArg_ParseTuple(args, "KII", &start_ns, &snaplen, &number)) return NULL;
    epochs_swap(&((Walk *)self)->epochs, start_ns, snaplen, number);
    Py_RETURN_NONE;
}

static PyObject *walk_swapped(PyObject *self, PyObject *args) {
    unsigned long long end_ns;
    if (!PyArg_ParseTuple(args, "K", &end_ns)) return NULL;
    epochs_swapped(&((Walk *)self)->epochs, end_ns);
    Py_RETURN_NONE;
}

static PyObject *walk_counters(PyObject *self, PyObject *unused) {
    (void)unused;
    Walk *w = (Walk *)self;
    return Py_BuildValue("KKK", ATOMIC_GET(w->captured), ATOMIC_GET(w->own), ATOMIC_GET(w->invalid));
}

static PyObject *walk_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"dispatch", "break_loop", "fraction_ns", "snaplen", "ethernet", "epoch", NULL};
    unsigned long long dispatch, break_loop;
    unsigned int fraction_ns, snaplen, epoch;
    int ethernet;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "KKIIpI", names, &dispatch, &break_loop, &fraction_ns, &snaplen,
                                     &ethernet, &epoch))
        return NULL;
    if (!dispatch || !break_loop) {
        PyErr_SetString(PyExc_ValueError, "the address of a function is not 0");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Walk *w = (Walk *)allocate(type, 0);
    if (!w) return NULL;
    w->held = malloc(MAX_CAPTURED);
    if (!w->held) {
        Py_DECREF(w);
        return PyErr_NoMemory();
    }
    w->dispatch = (Dispatch)(uintptr_t)dispatch, w->break_loop = (BreakLoop)(uintptr_t)break_loop;
    w->fraction_ns = fraction_ns, w->ethernet = ethernet;
    w->epochs.epoch[0].snaplen = snaplen, w->epochs.epoch[0].number = epoch;
    return (PyObject *)w;
}

static void walk_dealloc(PyObject *self) {
    free(((Walk *)self)->held);
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef walk_methods[] = {
    {"dispatch", walk_dispatch, METH_VARARGS, NULL}, {"swap", walk_swap, METH_VARARGS, NULL},
    {"swapped", walk_swapped, METH_VARARGS, NULL},   {"counters", walk_counters, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}};
static PyType_Slot walk_slots[] = {
    {Py_tp_new, walk_new}, {Py_tp_dealloc, walk_dealloc}, {Py_tp_methods, walk_methods}, {0, NULL}};
static PyType_Spec walk_spec = {"agent._libpcap.Walk", sizeof(Walk), 0, Py_TPFLAGS_DEFAULT, walk_slots};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "agent._libpcap", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__libpcap(void) {
    PyObject *module = PyModule_Create(&definition), *type = module ? PyType_FromSpec(&walk_spec) : NULL;
    if (!type || PyModule_AddObjectRef(module, "Walk", type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(module);
        return NULL;
    }
    Py_DECREF(type);
    return module;
}
