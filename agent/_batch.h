/* The columns of a batch being filled, and the filter epochs that packets belong to: what every live source shares.
 *
 * Columns (little endian, like every host that the agent runs on): u64 timestamp_ns, u32 captured_bytes,
 * u32 original_bytes, u16 flags (wire/batch.py), and the packets end to end. Include after Python.h.
 */
#ifndef WIREPOOL_BATCH_H
#define WIREPOOL_BATCH_H

#include <stdint.h>
#include <string.h>

#include "_bytes.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the columns are little endian: this kernel needs byte swapping on a big-endian host"
#endif

/* The flags column, as wire/batch.py has it; a test compares. */
enum {
    FLAG_IN = 1, FLAG_OUT = 2, /* epb_flags, bits 0-1 */
    FLAG_UNICAST = 1 << 2, FLAG_MULTICAST = 2 << 2, FLAG_BROADCAST = 3 << 2, FLAG_PROMISCUOUS = 4 << 2,
    FLAG_VLAN_REINSERTED = 1 << 5, FLAG_TRUNCATED = 1 << 6, FLAG_CHECKSUM_NOT_READY = 1 << 7,
    FLAG_SWAP_INTERVAL = 1 << 9, FLAG_CHECKSUM_VALID = 1 << 10, FLAG_HARDWARE_STAMP = 1 << 11
};
enum { END_FULL, END_TIME, END_WOKEN, END_EPOCH, END_ERROR }; /* why a read returned */

#define ATOMIC_GET(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define ATOMIC_SET(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

/* ---------------------------------------------------------------- columns */

typedef struct {
    Py_buffer timestamp_ns, captured, original, flags, data;
    Py_ssize_t packets, bytes; /* input: present; output: filled so far */
    Py_ssize_t capacity;       /* output: packets that fit */
} Columns;

static inline void columns_release(Columns *c) {
    Py_buffer *all[] = {&c->timestamp_ns, &c->captured, &c->original, &c->flags, &c->data};
    for (int i = 0; i < 5; i++)
        if (all[i]->obj) PyBuffer_Release(all[i]);
}

/* The buffers of a 5-tuple. Readable ones must agree on a number of packets, writable ones hold the least of them. */
static inline int columns_from(Columns *c, PyObject *tuple, int writable) {
    static const Py_ssize_t width[] = {8, 4, 4, 2, 1};
    Py_buffer *all[] = {&c->timestamp_ns, &c->captured, &c->original, &c->flags, &c->data};
    memset(c, 0, sizeof *c);
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != 5) {
        PyErr_SetString(PyExc_TypeError, "columns are a tuple of five buffers");
        return -1;
    }
    Py_ssize_t packets = PY_SSIZE_T_MAX;
    int equal = 1;
    for (int i = 0; i < 5; i++) {
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, i), all[i], writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) {
            columns_release(c);
            return -1;
        }
        if (i == 4) break;
        Py_ssize_t n = all[i]->len / width[i];
        equal &= (i == 0 || n == packets) && all[i]->len % width[i] == 0;
        if (n < packets) packets = n;
    }
    if (!writable && !equal) {
        PyErr_SetString(PyExc_ValueError, "the columns differ in their number of packets");
        columns_release(c);
        return -1;
    }
    c->capacity = packets;
    if (!writable) c->packets = packets, c->bytes = c->data.len;
    return 0;
}

#define COLUMN(c, name, type) ((type *)(c)->name.buf)

/* memcpy because a caller's buffer may start at any address. */
static inline void put_numbers(Columns *c, uint64_t timestamp_ns, uint32_t captured, uint32_t original,
                               uint16_t flags) {
    Py_ssize_t n = c->packets++;
    if (captured < original) flags |= FLAG_TRUNCATED;
    memcpy((uint8_t *)c->timestamp_ns.buf + 8 * n, &timestamp_ns, 8);
    memcpy((uint8_t *)c->captured.buf + 4 * n, &captured, 4);
    memcpy((uint8_t *)c->original.buf + 4 * n, &original, 4);
    memcpy((uint8_t *)c->flags.buf + 2 * n, &flags, 2);
    c->bytes += captured;
}

static inline int is_full(const Columns *c, uint32_t next_bytes) {
    return c->packets == c->capacity || (c->packets && (Py_ssize_t)next_bytes > c->data.len - c->bytes);
}

/* ---------------------------------------------------------------- filter epochs */

enum { EPOCHS = 16 };

typedef struct {
    uint64_t start_ns, end_ns; /* of the swap that began this epoch; end UINT64_MAX while it is under way */
    uint32_t snaplen, number;  /* number: the caller's name of the epoch */
} Epoch;

/* Filled by one thread with `epochs_swap` while another reads: all that both touch is atomic. */
typedef struct {
    Epoch epoch[EPOCHS];
    uint32_t now, last; /* epoch of the packet read last; newest epoch (both modulo EPOCHS when used) */
} Epochs;

static inline const Epoch *epochs_current(const Epochs *e) { return &e->epoch[e->now % EPOCHS]; }

/* Go to the epoch of a packet stamped `timestamp_ns`. 0: it is a newer one than the batch's, which has packets: end the
 * batch first. Otherwise 1, the bytes to keep in `snaplen`, and SWAP_INTERVAL in `flags` where that applies. */
static inline int epochs_enter(Epochs *e, uint64_t timestamp_ns, int has_packets, uint32_t *snaplen, uint16_t *flags) {
    while (e->now != ATOMIC_GET(e->last) && timestamp_ns >= ATOMIC_GET(e->epoch[(e->now + 1) % EPOCHS].start_ns)) {
        if (has_packets) return 0;
        e->now++;
    }
    const Epoch *current = epochs_current(e);
    *snaplen = ATOMIC_GET(current->snaplen);
    if (e->now && timestamp_ns <= ATOMIC_GET(current->end_ns)) {
        /* Either filter may have let it pass (one stamped before the interval that another processor queued late is
         * no different): keep what the more generous one kept. */
        uint32_t before = ATOMIC_GET(e->epoch[(e->now - 1) % EPOCHS].snaplen);
        *flags |= FLAG_SWAP_INTERVAL;
        if (before > *snaplen) *snaplen = before;
    }
    return 1;
}

static inline void epochs_swap(Epochs *e, uint64_t start_ns, uint32_t snaplen, uint32_t number) {
    /* One slot must stay for the epoch before the current one. Beyond that (nobody has read through this many changes)
     * the newest epoch is widened: its packets are all marked as judged by one or the other. */
    int merge = e->last - ATOMIC_GET(e->now) >= EPOCHS - 2;
    Epoch *next = &e->epoch[(e->last + !merge) % EPOCHS];
    ATOMIC_SET(next->number, number);
    ATOMIC_SET(next->snaplen, snaplen);
    ATOMIC_SET(next->end_ns, UINT64_MAX);
    if (!merge) {
        ATOMIC_SET(next->start_ns, start_ns);
        ATOMIC_SET(e->last, e->last + 1);
    }
}

static inline void epochs_swapped(Epochs *e, uint64_t end_ns) { ATOMIC_SET(e->epoch[e->last % EPOCHS].end_ns, end_ns); }

#endif
