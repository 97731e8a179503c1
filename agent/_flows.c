/* The map of flow counters (bpf/contract.h) read in few system calls, and what changed between two readings as the
 * columns of a flow record batch (wire/flows.py). No policy here; the GIL is released. A reading is two buffers, keys and
 * counters, of so many flows, and an index of open addressing over its keys: u32, number of a flow + 1, or 0.
 */
#define _GNU_SOURCE /* syscall */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <arpa/inet.h>
#include <errno.h>
#include <linux/types.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../bpf/contract.h"
#include "_own_traffic.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the columns are little endian: this kernel needs byte swapping on a big-endian host"
#endif

typedef struct flow_key Key;
typedef struct flow_counter Counter;

/* Parts of union bpf_attr and enum bpf_cmd of linux/bpf.h, which older headers don't have. */
enum { MAP_LOOKUP = 1, MAP_NEXT_KEY = 4, MAP_LOOKUP_BATCH = 24 };
typedef struct {
    uint64_t in, out, keys, values;
    uint32_t count, map;
    uint64_t element_flags, flags;
} BatchOfElements;
typedef struct {
    uint32_t map, unused;
    uint64_t key, value, flags;
} OneElement;

static long bpf(int command, void *attributes, unsigned bytes) {
    long result;
    do result = syscall(SYS_bpf, command, attributes, bytes);
    while (result < 0 && errno == EINTR);
    return result;
}

static uint64_t address(const void *p) { return (uint64_t)(uintptr_t)p; }

/* Elements read, or -1 with errno: EINVAL on a kernel before 5.6, which knows no batches. */
static Py_ssize_t read_batches(int map, Key *keys, Counter *values, Py_ssize_t room) {
    Py_ssize_t flows = 0;
    uint32_t place = 0, next = 0;
    for (int first = 1; flows < room; first = 0, place = next) {
        BatchOfElements a = {.in = first ? 0 : address(&place), .out = address(&next), .keys = address(keys + flows),
                             .values = address(values + flows), .count = (uint32_t)(room - flows), .map = (uint32_t)map};
        long result = bpf(MAP_LOOKUP_BATCH, &a, sizeof a);
        if (result < 0 && errno != ENOENT) return flows && errno == ENOSPC ? flows : -1;
        flows += a.count;
        if (result < 0) break; /* ENOENT: these were the last */
    }
    return flows;
}

/* The same a key at a time. A key that goes away meanwhile makes the kernel begin again, so flows may come twice; the
 * steps are bounded. */
static Py_ssize_t read_singly(int map, Key *keys, Counter *values, Py_ssize_t room) {
    Py_ssize_t flows = 0;
    Key at, next;
    memset(&at, 0xff, sizeof at); /* no such key: the kernel gives the first one */
    for (Py_ssize_t step = 0; flows < room && step < 2 * room; step++, at = next) {
        OneElement a = {.map = (uint32_t)map, .key = address(&at), .value = address(&next)};
        if (bpf(MAP_NEXT_KEY, &a, sizeof a) < 0) return errno == ENOENT ? flows : -1;
        OneElement b = {.map = (uint32_t)map, .key = address(&next), .value = address(values + flows)};
        if (bpf(MAP_LOOKUP, &b, sizeof b) == 0) keys[flows++] = next;
        else if (errno != ENOENT) return -1;
    }
    return flows;
}

static PyObject *read_map(PyObject *module, PyObject *args) {
    (void)module;
    int map, batches;
    Py_buffer keys, values;
    if (!PyArg_ParseTuple(args, "iw*w*p", &map, &keys, &values, &batches)) return NULL;
    Py_ssize_t room = keys.len / (Py_ssize_t)sizeof(Key), flows;
    if (values.len / (Py_ssize_t)sizeof(Counter) < room) room = values.len / (Py_ssize_t)sizeof(Counter);
    Py_BEGIN_ALLOW_THREADS
    flows = (batches ? read_batches : read_singly)(map, keys.buf, values.buf, room);
    Py_END_ALLOW_THREADS
    if (flows < 0) PyErr_SetFromErrno(PyExc_OSError);
    PyBuffer_Release(&keys);
    PyBuffer_Release(&values);
    return flows < 0 ? NULL : PyLong_FromSsize_t(flows);
}

static uint64_t mixed(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    return hash ^ hash >> 32;
}

static uint64_t hash_of(const Key *key) {
    uint64_t words[sizeof(Key) / 8], hash = 0;
    memcpy(words, key, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) hash = mixed(hash, words[i]);
    return hash;
}

/* The slot of a key in an index of 2^n slots over `flows` keys: taken by it, or free; NULL in what is no such index. */
static uint32_t *slot_of(const Key *key, const Key *keys, Py_ssize_t flows, uint32_t *index, size_t slots) {
    size_t at = hash_of(key);
    for (size_t step = 0; step < slots; step++, at++) {
        uint32_t *slot = index + (at & (slots - 1));
        if (*slot > flows) return NULL;
        if (!*slot || !memcmp(keys + *slot - 1, key, sizeof *key)) return slot;
    }
    return NULL;
}

static int fits_index(Py_ssize_t flows, size_t slots) {
    return slots && !(slots & (slots - 1)) && (size_t)flows < slots && flows < UINT32_MAX;
}

static PyObject *index_flows(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t flows, kept = 0;
    Py_buffer keys, values, index;
    if (!PyArg_ParseTuple(args, "w*w*nw*", &keys, &values, &flows, &index)) return NULL;
    size_t slots = (size_t)index.len / 4;
    if (flows < 0 || flows > keys.len / (Py_ssize_t)sizeof(Key) || flows > values.len / (Py_ssize_t)sizeof(Counter) ||
        !fits_index(flows, slots)) {
        PyErr_SetString(PyExc_ValueError, "a reading of more flows than its buffers or its index hold");
        kept = -1;
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    Key *key = keys.buf;
    Counter *value = values.buf;
    memset(index.buf, 0, 4 * slots);
    for (Py_ssize_t i = 0; i < flows; i++) {
        uint32_t *slot = slot_of(key + i, key, kept, index.buf, slots);
        if (!slot || *slot) continue; /* came twice */
        if (kept != i) key[kept] = key[i], value[kept] = value[i];
        *slot = (uint32_t)++kept;
    }
    Py_END_ALLOW_THREADS
done:
    PyBuffer_Release(&keys);
    PyBuffer_Release(&values);
    PyBuffer_Release(&index);
    return kept < 0 ? NULL : PyLong_FromSsize_t(kept);
}

enum { VERSION, PROTOCOL, ADDRESS_A, ADDRESS_B, PORT_A, PORT_B, PACKETS_A, PACKETS_B, BYTES_A, BYTES_B, FIRST, LAST, COLUMNS };
static const int widths[COLUMNS] = {1, 1, 16, 16, 2, 2, 8, 8, 8, 8, 8, 8};

static int is_own_flow(const Key *key, const uint8_t *entry, Py_ssize_t entries) {
    if (key->protocol != 6 && key->protocol != 17) return 0;
    size_t bytes = key->version == 4 ? 4 : 16;
    for (; entries > 0; entries--, entry += OWN_ENTRY_BYTES) {
        if (entry[0] != key->version) continue;
        if (!memcmp(&key->lower_port, entry + 2, 2) && !memcmp(key->lower_address, entry + 4, bytes)) return 1;
        if (!memcmp(&key->upper_port, entry + 2, 2) && !memcmp(key->upper_address, entry + 4, bytes)) return 1;
    }
    return 0;
}

/* What came since `old`; all of it when the flow was forgotten and began anew in between. */
static Counter grown(const Counter *now, const Counter *old) {
    Counter d = *now;
    if (!old || old->first_ns != now->first_ns || old->from_lower.packets > now->from_lower.packets ||
        old->from_lower.bytes > now->from_lower.bytes || old->from_upper.packets > now->from_upper.packets ||
        old->from_upper.bytes > now->from_upper.bytes)
        return d;
    d.from_lower.packets -= old->from_lower.packets, d.from_lower.bytes -= old->from_lower.bytes;
    d.from_upper.packets -= old->from_upper.packets, d.from_upper.bytes -= old->from_upper.bytes;
    return d;
}

static void put(const Py_buffer *column, Py_ssize_t at, const void *value, size_t bytes) {
    memcpy((uint8_t *)column->buf + at * (Py_ssize_t)bytes, value, bytes);
}

static void put_record(const Py_buffer *c, Py_ssize_t at, const Key *key, const Counter *d, uint64_t utc_offset_ns) {
    uint16_t lower = ntohs(key->lower_port), upper = ntohs(key->upper_port);
    uint64_t first = d->first_ns + utc_offset_ns, last = d->last_ns + utc_offset_ns;
    if (last < first) last = first; /* two processors that met at a new flow */
    put(c + VERSION, at, &key->version, 1), put(c + PROTOCOL, at, &key->protocol, 1);
    put(c + ADDRESS_A, at, key->lower_address, 16), put(c + ADDRESS_B, at, key->upper_address, 16);
    put(c + PORT_A, at, &lower, 2), put(c + PORT_B, at, &upper, 2);
    put(c + PACKETS_A, at, &d->from_lower.packets, 8), put(c + PACKETS_B, at, &d->from_upper.packets, 8);
    put(c + BYTES_A, at, &d->from_lower.bytes, 8), put(c + BYTES_B, at, &d->from_upper.bytes, 8);
    put(c + FIRST, at, &first, 8), put(c + LAST, at, &last, 8);
}

static PyObject *changes(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer keys, values, old_keys, old_values, old_index, own, columns[COLUMNS];
    Py_ssize_t flows, old_flows, first, room, records = 0;
    unsigned long long utc_offset_ns, packets = 0, own_packets = 0;
    PyObject *tuple, *result = NULL;
    int held = 0;
    if (!PyArg_ParseTuple(args, "(y*y*n)(y*y*nw*)y*KOn", &keys, &values, &flows, &old_keys, &old_values, &old_flows, &old_index,
                          &own, &utc_offset_ns, &tuple, &first))
        return NULL;
    size_t slots = (size_t)old_index.len / 4;
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != COLUMNS) {
        PyErr_SetString(PyExc_ValueError, "a tuple of twelve columns is needed");
        goto done;
    }
    for (; held < COLUMNS; held++)
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, held), columns + held, PyBUF_WRITABLE)) goto done;
    room = columns[0].len;
    for (int i = 0; i < COLUMNS; i++)
        if (columns[i].len / widths[i] < room) room = columns[i].len / widths[i];
    if (flows < 0 || first < 0 || flows > keys.len / (Py_ssize_t)sizeof(Key) ||
        flows > values.len / (Py_ssize_t)sizeof(Counter) || old_flows < 0 ||
        old_flows > old_keys.len / (Py_ssize_t)sizeof(Key) || old_flows > old_values.len / (Py_ssize_t)sizeof(Counter) ||
        !fits_index(old_flows, slots)) {
        PyErr_SetString(PyExc_ValueError, "a reading of more flows than its buffers or its index hold");
        goto done;
    }
    const Key *key = keys.buf, *old_key = old_keys.buf;
    const Counter *value = values.buf, *old = old_values.buf;
    int sound = 1;
    Py_BEGIN_ALLOW_THREADS
    for (; first < flows && records < room; first++) {
        const uint32_t *known = slot_of(key + first, old_key, old_flows, old_index.buf, slots);
        if (!known) {
            sound = 0;
            break;
        }
        Counter d = grown(value + first, *known ? old + *known - 1 : NULL);
        uint64_t came = d.from_lower.packets + d.from_upper.packets;
        if (!came && !d.from_lower.bytes && !d.from_upper.bytes) continue;
        if (own.len && is_own_flow(key + first, own.buf, own.len / OWN_ENTRY_BYTES)) {
            own_packets += came;
            continue;
        }
        packets += came;
        put_record(columns, records++, key + first, &d, utc_offset_ns);
    }
    Py_END_ALLOW_THREADS
    if (sound) result = Py_BuildValue("nnKK", first, records, packets, own_packets);
    else PyErr_SetString(PyExc_ValueError, "an index that isn't of the reading it comes with");
done:
    while (held > 0) PyBuffer_Release(columns + --held);
    PyBuffer_Release(&keys);
    PyBuffer_Release(&values);
    PyBuffer_Release(&old_keys);
    PyBuffer_Release(&old_values);
    PyBuffer_Release(&old_index);
    PyBuffer_Release(&own);
    return result;
}

static PyMethodDef functions[] = {{"read_map", read_map, METH_VARARGS, NULL},
                                  {"index", index_flows, METH_VARARGS, NULL},
                                  {"changes", changes, METH_VARARGS, NULL},
                                  {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "agent._flows", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__flows(void) { return PyModule_Create(&definition); }
