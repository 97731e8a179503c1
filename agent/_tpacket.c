/* The capture kernels: packets out of a TPACKET_V3 ring, or out of columns read from a file, into a batch's columns.
 *
 * One call moves one batch with the GIL released. This file knows nothing of sockets' options, interfaces or sessions:
 * it gets a mapping, descriptors to poll and buffers to fill, and trusts none of the numbers it finds in a mapping or
 * in a filter program. Layout of a ring: linux/if_packet.h, Documentation/networking/packet_mmap.rst.
 * Columns and filter epochs: _batch.h.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "_batch.h"
#include "_cbpf.h"
#include "_own_traffic.h"

enum { TAG_AT = 12, TAG_BYTES = 4, NAP_NS = 20 * 1000 * 1000 };

static int64_t monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---------------------------------------------------------------- recorded packets */

/* A program as Python bytes, validated; the copy is the caller's to free. */
static struct sock_filter *filter_from(const Py_buffer *bytes) {
    Py_ssize_t n = bytes->len / (Py_ssize_t)sizeof(struct sock_filter);
    struct sock_filter *f = PyMem_Malloc(bytes->len ? bytes->len : 1);
    if (!f) return (struct sock_filter *)PyErr_NoMemory();
    memcpy(f, bytes->buf, bytes->len);
    if (bytes->len % sizeof(struct sock_filter) || !filter_valid(f, n)) {
        PyMem_Free(f);
        PyErr_SetString(PyExc_ValueError, "not a valid classic BPF program");
        return NULL;
    }
    return f;
}

static PyObject *run_filter(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer program, packet;
    unsigned int original, type;
    long long tag;
    if (!PyArg_ParseTuple(args, "y*y*IIL", &program, &packet, &original, &type, &tag)) return NULL;
    PyObject *result = NULL;
    struct sock_filter *f = filter_from(&program);
    if (f) {
        Frame frame = {packet.buf, (uint32_t)packet.len, original, type, tag};
        result = PyLong_FromUnsignedLong(filter_run(f, &frame));
        PyMem_Free(f);
    }
    PyBuffer_Release(&program);
    PyBuffer_Release(&packet);
    return result;
}

/* copy_packets(program, snaplen, source, index, offset, until_ns, most, target)
 *     -> (index, offset, packets, data_bytes, filtered) */
static PyObject *copy_packets(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer program;
    PyObject *source, *target;
    unsigned int snaplen;
    unsigned long long until_ns;
    Py_ssize_t index, offset, most;
    if (!PyArg_ParseTuple(args, "y*IOnnKnO", &program, &snaplen, &source, &index, &offset, &until_ns, &most, &target))
        return NULL;
    Columns in, out;
    PyObject *result = NULL;
    struct sock_filter *f = filter_from(&program);
    PyBuffer_Release(&program);
    if (!f || columns_from(&in, source, 0) < 0) goto done;
    if (columns_from(&out, target, 1) < 0) { columns_release(&in); goto done; }
    if (index < 0 || index > in.packets || offset < 0 || offset > in.bytes) {
        PyErr_SetString(PyExc_ValueError, "the position lies outside the columns");
        goto release;
    }
    unsigned long long filtered = 0;
    int overrun = 0;
    Py_BEGIN_ALLOW_THREADS
    for (; index < in.packets && most > 0; index++) {
        uint64_t timestamp_ns;
        uint32_t captured, original;
        uint16_t flags;
        memcpy(&timestamp_ns, (uint8_t *)in.timestamp_ns.buf + 8 * index, 8);
        memcpy(&captured, (uint8_t *)in.captured.buf + 4 * index, 4);
        memcpy(&original, (uint8_t *)in.original.buf + 4 * index, 4);
        memcpy(&flags, (uint8_t *)in.flags.buf + 2 * index, 2);
        if ((Py_ssize_t)captured > in.bytes - offset) { overrun = 1; break; }
        if (timestamp_ns > until_ns) break;
        uint32_t type = (flags & 3) == FLAG_OUT ? PACKET_OUTGOING : PACKET_HOST;
        Frame frame = {(uint8_t *)in.data.buf + offset, captured, original, type, -1};
        uint32_t verdict = filter_run(f, &frame);
        if (!verdict) {
            filtered++;
        } else {
            uint32_t keep = least(captured, least(verdict, snaplen));
            if (is_full(&out, keep)) break;
            keep = least(keep, (uint32_t)(out.data.len - out.bytes));
            memcpy((uint8_t *)out.data.buf + out.bytes, frame.data, keep);
            put_numbers(&out, timestamp_ns, keep, original, flags);
        }
        offset += captured, most--;
    }
    Py_END_ALLOW_THREADS
    if (overrun) PyErr_SetString(PyExc_ValueError, "the captured lengths exceed the data");
    else result = Py_BuildValue("nnnnK", index, offset, out.packets, out.bytes, filtered);
release:
    columns_release(&in);
    columns_release(&out);
done:
    PyMem_Free(f);
    return result;
}

/* ---------------------------------------------------------------- the ring */

/* A TPACKET_V3 ring's reading position, filter epochs and books. Python serialises everything but `read`, which runs
 * without the GIL: what both touch (epochs, counters) is atomic, and `reading` keeps the mapping alive. */
typedef struct {
    PyObject_HEAD
    Py_buffer map;
    int reading, ethernet;
    uint32_t block_bytes, blocks;
    uint32_t block, open, left, offset; /* the block being read; packets left in it, where the next one begins */
    uint64_t captured, own, invalid;
    Epochs epochs;
} Ring;

typedef struct {
    const uint8_t *own;
    Py_ssize_t own_entries;
    Columns out;
    int64_t first_ns; /* monotonic time at which the first packet was placed */
} Reading;

/* Copy the packets of the open block. Returns END_TIME when it is used up, END_FULL or END_EPOCH with a packet left. */
static int copy_block(Ring *r, Reading *c, const uint8_t *block) {
    while (r->left) {
        struct tpacket3_hdr h;
        uint32_t room = r->offset < r->block_bytes ? r->block_bytes - r->offset : 0;
        uint32_t own_header = TPACKET_ALIGN(sizeof h) + sizeof(struct sockaddr_ll);
        if (room < own_header) goto malformed;
        const uint8_t *at = block + r->offset;
        memcpy(&h, at, sizeof h);
        if (h.tp_mac > room || h.tp_snaplen > room - h.tp_mac || h.tp_len < h.tp_snaplen) goto malformed;

        uint64_t timestamp_ns = (uint64_t)h.tp_sec * 1000000000u + h.tp_nsec;
        uint32_t snaplen;
        uint16_t flags = 0;
        if (!epochs_enter(&r->epochs, timestamp_ns, c->out.packets > 0, &snaplen, &flags)) return END_EPOCH;
        /* Another processor wrote this ring: what comes in eight packets is fetched while this one is copied. Packets of one
         * length are guessed right; a wrong guess costs a fetch. A quarter of the walk's time at 60 bytes. */
        if (h.tp_next_offset && h.tp_next_offset < room / 16)
            for (uint32_t ahead = 8 * h.tp_next_offset, line = 0; line < 3; line++)
                __builtin_prefetch(at + ahead + 64 * line);
        const uint8_t *frame = at + h.tp_mac;
        if (c->own_entries && is_own(frame, h.tp_snaplen, r->ethernet, c->own, c->own_entries)) {
            ATOMIC_SET(r->own, r->own + 1);
            goto next;
        }
        uint32_t tag = r->ethernet && (h.tp_status & TP_STATUS_VLAN_VALID) && h.tp_snaplen >= TAG_AT ? TAG_BYTES : 0;
        uint32_t keep = least(h.tp_snaplen + tag, snaplen);
        if (is_full(&c->out, keep)) return END_FULL;
        keep = least(keep, (uint32_t)(c->out.data.len - c->out.bytes));
        uint8_t *to = (uint8_t *)c->out.data.buf + c->out.bytes;
        if (!tag) {
            memcpy(to, frame, keep);
        } else {
            uint32_t tpid = h.tp_status & TP_STATUS_VLAN_TPID_VALID ? h.hv1.tp_vlan_tpid : 0x8100;
            uint32_t tci = h.hv1.tp_vlan_tci;
            uint8_t bytes[TAG_BYTES] = {tpid >> 8, tpid & 0xff, tci >> 8 & 0xff, tci & 0xff};
            memcpy(to, frame, least(keep, TAG_AT));
            if (keep > TAG_AT) memcpy(to + TAG_AT, bytes, least(keep - TAG_AT, TAG_BYTES));
            if (keep > TAG_AT + TAG_BYTES) memcpy(to + TAG_AT + TAG_BYTES, frame + TAG_AT, keep - TAG_AT - TAG_BYTES);
            flags |= FLAG_VLAN_REINSERTED;
        }
        switch (at[TPACKET_ALIGN(sizeof h) + offsetof(struct sockaddr_ll, sll_pkttype)]) {
        case PACKET_HOST: flags |= FLAG_IN | FLAG_UNICAST; break;
        case PACKET_BROADCAST: flags |= FLAG_IN | FLAG_BROADCAST; break;
        case PACKET_MULTICAST: flags |= FLAG_IN | FLAG_MULTICAST; break;
        case PACKET_OTHERHOST: flags |= FLAG_IN | FLAG_PROMISCUOUS; break;
        case PACKET_OUTGOING: flags |= FLAG_OUT; break;
        }
        if (h.tp_status & TP_STATUS_CSUMNOTREADY) flags |= FLAG_CHECKSUM_NOT_READY;
        if (h.tp_status & TP_STATUS_CSUM_VALID) flags |= FLAG_CHECKSUM_VALID;
        if (h.tp_status & TP_STATUS_TS_RAW_HARDWARE) flags |= FLAG_HARDWARE_STAMP;
        if (!c->out.packets) c->first_ns = monotonic_ns();
        put_numbers(&c->out, timestamp_ns, keep, h.tp_len + tag, flags);
        ATOMIC_SET(r->captured, r->captured + 1);
    next:
        r->left--;
        if (r->left) {
            if (h.tp_next_offset < own_header || h.tp_next_offset > room) goto malformed;
            r->offset += h.tp_next_offset;
        }
    }
    return END_TIME;
malformed: /* nothing behind this point in the block can be trusted */
    ATOMIC_SET(r->invalid, r->invalid + r->left);
    r->left = 0;
    return END_TIME;
}

/* Until something is to be done: 0: look at the ring again; else an END_ reason. fd -1: only time and wake-up count. */
static int wait_for_block(int fd, int wake_fd, int64_t left_ns) {
    struct timespec timeout = {left_ns / 1000000000, left_ns % 1000000000};
    struct pollfd fds[] = {{fd, POLLIN, 0}, {wake_fd, POLLIN, 0}};
    if (ppoll(fds, 2, &timeout, NULL) < 0) return errno == EINTR ? END_WOKEN : END_ERROR;
    if (fds[1].revents) {
        uint64_t count;
        if (read(wake_fd, &count, sizeof count) < 0 && errno != EAGAIN) return END_ERROR;
        return END_WOKEN;
    }
    return fds[0].revents & ~POLLIN ? END_ERROR : 0;
}

static int ring_read_blocks(Ring *r, Reading *c, int fd, int wake_fd, int64_t linger_ns, int64_t wait_ns) {
    int64_t start_ns = monotonic_ns();
    int idle_polls = 0;
    for (;;) {
        uint8_t *block = (uint8_t *)r->map.buf + (size_t)r->block * r->block_bytes;
        struct tpacket_block_desc *d = (struct tpacket_block_desc *)block;
        int ready = r->open;
        if (!ready && (ATOMIC_GET(d->hdr.bh1.block_status) & TP_STATUS_USER)) {
            r->left = d->hdr.bh1.num_pkts, r->offset = d->hdr.bh1.offset_to_first_pkt, r->open = ready = 1;
            idle_polls = 0;
        }
        if (ready) {
            int end = copy_block(r, c, block);
            if (end != END_TIME) return end;
            r->open = 0;
            ATOMIC_SET(d->hdr.bh1.block_status, TP_STATUS_KERNEL);
            r->block = (r->block + 1) % r->blocks;
        }
        /* Also after a block: a stream that never pauses (of own traffic, even) must not keep us beyond the time. */
        int64_t left_ns = (c->out.packets ? c->first_ns + linger_ns : start_ns + wait_ns) - monotonic_ns();
        if (left_ns <= 0) return END_TIME;
        if (ready) continue;
        int end;
        if (c->out.packets) {
            /* The batch waits for company: not every block is worth a wake-up, the ring holds much more than this. */
            end = wait_for_block(-1, wake_fd, left_ns < NAP_NS ? left_ns : NAP_NS);
        } else if (idle_polls++ > 1) { /* the descriptor says ready, the block does not: don't spin on it */
            end = wait_for_block(-1, wake_fd, left_ns < 1000000 ? left_ns : 1000000);
        } else {
            end = wait_for_block(fd, wake_fd, left_ns);
        }
        if (end) return end;
    }
}

static PyObject *ring_read(PyObject *self, PyObject *args) {
    Ring *r = (Ring *)self;
    int fd, wake_fd;
    long long linger_ns, wait_ns;
    PyObject *target;
    Py_buffer own;
    if (!PyArg_ParseTuple(args, "iiy*OLL", &fd, &wake_fd, &own, &target, &linger_ns, &wait_ns)) return NULL;
    Reading c = {.own = own.buf, .own_entries = own.len / OWN_ENTRY_BYTES};
    PyObject *result = NULL;
    if (r->reading || !r->map.obj) {
        PyErr_SetString(PyExc_RuntimeError, r->reading ? "another thread reads this ring" : "the ring is released");
    } else if (columns_from(&c.out, target, 1) == 0) {
        int end;
        r->reading = 1;
        Py_BEGIN_ALLOW_THREADS
        end = ring_read_blocks(r, &c, fd, wake_fd, linger_ns, wait_ns);
        Py_END_ALLOW_THREADS
        r->reading = 0;
        const Epoch *e = epochs_current(&r->epochs);
        result = Py_BuildValue("nniII", c.out.packets, c.out.bytes, end, e->number, e->snaplen);
        columns_release(&c.out);
    }
    PyBuffer_Release(&own);
    return result;
}

static PyObject *ring_swap(PyObject *self, PyObject *args) {
    Ring *r = (Ring *)self;
    unsigned long long start_ns;
    unsigned int snaplen, number;
    if (!PyArg_ParseTuple(args, "KII", &start_ns, &snaplen, &number)) return NULL;
    epochs_swap(&r->epochs, start_ns, snaplen, number);
    Py_RETURN_NONE;
}

static PyObject *ring_swapped(PyObject *self, PyObject *args) {
    Ring *r = (Ring *)self;
    unsigned long long end_ns;
    if (!PyArg_ParseTuple(args, "K", &end_ns)) return NULL;
    epochs_swapped(&r->epochs, end_ns);
    Py_RETURN_NONE;
}

static PyObject *ring_counters(PyObject *self, PyObject *unused) {
    (void)unused;
    Ring *r = (Ring *)self;
    return Py_BuildValue("KKK", ATOMIC_GET(r->captured), ATOMIC_GET(r->own), ATOMIC_GET(r->invalid));
}

static PyObject *ring_release(PyObject *self, PyObject *unused) {
    (void)unused;
    Ring *r = (Ring *)self;
    if (r->reading) {
        PyErr_SetString(PyExc_RuntimeError, "a thread is reading this ring");
        return NULL;
    }
    if (r->map.obj) PyBuffer_Release(&r->map);
    Py_RETURN_NONE;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"mapping", "block_bytes", "snaplen", "ethernet", "epoch", NULL};
    PyObject *mapping;
    unsigned int block_bytes, snaplen, epoch;
    int ethernet;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OIIpI", names, &mapping, &block_bytes, &snaplen, &ethernet,
                                     &epoch))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Ring *r = (Ring *)allocate(type, 0);
    if (!r) return NULL;
    if (PyObject_GetBuffer(mapping, &r->map, PyBUF_WRITABLE) < 0) goto failed;
    Py_ssize_t blocks = block_bytes ? r->map.len / block_bytes : 0;
    if (block_bytes < 4096 || block_bytes % 4096 || blocks < 1 || blocks > INT32_MAX || r->map.len % block_bytes ||
        (uintptr_t)r->map.buf % 8) {
        PyErr_SetString(PyExc_ValueError, "a ring is one or more whole blocks of whole pages");
        goto failed;
    }
    r->block_bytes = block_bytes, r->blocks = (uint32_t)blocks, r->ethernet = ethernet;
    r->epochs.epoch[0].snaplen = snaplen, r->epochs.epoch[0].number = epoch;
    return (PyObject *)r;
failed:
    Py_DECREF(r);
    return NULL;
}

static void ring_dealloc(PyObject *self) {
    Ring *r = (Ring *)self;
    if (r->map.obj) PyBuffer_Release(&r->map);
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef ring_methods[] = {
    {"read", ring_read, METH_VARARGS, NULL},         {"swap", ring_swap, METH_VARARGS, NULL},
    {"swapped", ring_swapped, METH_VARARGS, NULL},   {"counters", ring_counters, METH_NOARGS, NULL},
    {"release", ring_release, METH_NOARGS, NULL},    {NULL, NULL, 0, NULL}};
static PyType_Slot ring_slots[] = {
    {Py_tp_new, ring_new}, {Py_tp_dealloc, ring_dealloc}, {Py_tp_methods, ring_methods}, {0, NULL}};
static PyType_Spec ring_spec = {"agent._tpacket.Ring", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT, ring_slots};

static PyMethodDef functions[] = {
    {"copy_packets", copy_packets, METH_VARARGS, NULL},
    {"run_filter", run_filter, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "agent._tpacket", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__tpacket(void) {
    PyObject *module = PyModule_Create(&definition), *type = module ? PyType_FromSpec(&ring_spec) : NULL;
    if (!type || PyModule_AddObjectRef(module, "Ring", type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(module);
        return NULL;
    }
    Py_DECREF(type);
    static const struct { const char *name; int value; } constants[] = {
        {"END_FULL", END_FULL}, {"END_TIME", END_TIME}, {"END_WOKEN", END_WOKEN}, {"END_EPOCH", END_EPOCH},
        {"END_ERROR", END_ERROR}, {"OWN_ENTRY_BYTES", OWN_ENTRY_BYTES}};
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0) {
            Py_DECREF(module);
            return NULL;
        }
    return module;
}
