/* Packet columns from and to capture files: the loops that Python would run once per packet.
 *
 * Ignorant of files, policies and Python objects beyond buffers; the interpreter's lock is released around every
 * loop. Columns are little endian on every machine: numbers are moved byte by byte and compilers turn that into a load.
 * Every length is compared with what is left before it is used, as a subtraction that can't wrap, and pointers are
 * only made inside their buffers. Limited API of 3.11: one build for every later Python. The stub is _columns.pyi.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define MAX_CAPTURED 262144u /* libpcap's MAXIMUM_SNAPLEN for almost every link type */
#define MAX_BLOCK (16u << 20) /* libpcap's bound of one pcapng block */

/* Bits of the flags column; wire/body.py is their definition. */
#define FLAG_LOW 0x001Fu /* direction and reception, as in epb_flags */
#define FLAG_TRUNCATED 0x0040u
#define FLAG_CHECKSUM_NOT_READY 0x0080u
#define FLAG_CHECKSUM_VALID 0x0400u
#define EPB_CHECKSUM_NOT_READY 0x0200u
#define EPB_CHECKSUM_VALID 0x0400u

static uint16_t le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t le32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t le64(const uint8_t *p) { return (uint64_t)le32(p) | (uint64_t)le32(p + 4) << 32; }
static uint32_t be32(const uint8_t *p) {
    return (uint32_t)p[3] | (uint32_t)p[2] << 8 | (uint32_t)p[1] << 16 | (uint32_t)p[0] << 24;
}
static uint32_t get32(const uint8_t *p, int big) { return big ? be32(p) : le32(p); }
static uint16_t get16(const uint8_t *p, int big) { return big ? (uint16_t)(p[0] << 8 | p[1]) : le16(p); }
static void put16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v; p[1] = (uint8_t)(v >> 8); }
static void put32(uint8_t *p, uint32_t v) { put16(p, (uint16_t)v); put16(p + 2, (uint16_t)(v >> 16)); }
static void put64(uint8_t *p, uint64_t v) { put32(p, (uint32_t)v); put32(p + 4, (uint32_t)(v >> 32)); }

/* ---- columns in: lengths that fit each other ------------------------------------------------------------------ */

typedef struct {
    Py_ssize_t packets;
    uint64_t captured, original, first, last;
    const char *error;
} sums_t;

static sums_t add_up(const Py_buffer *ts, const Py_buffer *cap, const Py_buffer *orig, const Py_buffer *flags,
                     const Py_buffer *data, uint32_t max_captured) {
    sums_t s = {ts->len / 8, 0, 0, UINT64_MAX, 0, NULL};
    if (ts->len % 8 || cap->len != s.packets * 4 || orig->len != s.packets * 4 ||
        (flags && flags->len != s.packets * 2)) {
        s.error = "the columns' lengths differ";
        return s;
    }
    const uint8_t *t = ts->buf, *c = cap->buf, *o = orig->buf;
    uint32_t longest = 0;
    for (Py_ssize_t i = 0; i < s.packets; i++) {
        uint32_t captured = le32(c + 4 * i);
        uint64_t time = le64(t + 8 * i);
        s.captured += captured;
        s.original += le32(o + 4 * i);
        if (captured > longest) longest = captured;
        if (time < s.first) s.first = time;
        if (time > s.last) s.last = time;
    }
    if (s.packets == 0) s.first = 0;
    if (longest > max_captured) s.error = "a captured length is over its bound";
    else if (s.captured != (uint64_t)data->len) s.error = "the captured lengths don't add up to the data";
    return s;
}

static PyObject *columns_sums(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer b[5];
    unsigned int max_captured;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*I:sums", &b[0], &b[1], &b[2], &b[3], &b[4], &max_captured)) return NULL;
    sums_t s;
    Py_BEGIN_ALLOW_THREADS
    s = add_up(&b[0], &b[1], &b[2], &b[3], &b[4], max_captured);
    Py_END_ALLOW_THREADS
    for (int i = 0; i < 5; i++) PyBuffer_Release(&b[i]);
    if (s.error) {
        PyErr_SetString(PyExc_ValueError, s.error);
        return NULL;
    }
    return Py_BuildValue("nKKKK", s.packets, (unsigned long long)s.captured, (unsigned long long)s.original,
                         (unsigned long long)s.first, (unsigned long long)s.last);
}

/* ---- columns -> capture file ------------------------------------------------------------------------------------ */

static uint32_t epb_flags_of(uint16_t flags) {
    return (flags & FLAG_LOW) | (flags & FLAG_CHECKSUM_NOT_READY ? EPB_CHECKSUM_NOT_READY : 0) |
           (flags & FLAG_CHECKSUM_VALID ? EPB_CHECKSUM_VALID : 0);
}

static PyObject *columns_epb_blocks(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer b[5];
    unsigned int interface_id;
    if (!PyArg_ParseTuple(args, "Iy*y*y*y*y*:epb_blocks", &interface_id, &b[0], &b[1], &b[2], &b[3], &b[4]))
        return NULL;
    const uint8_t *t = b[0].buf, *c = b[1].buf, *o = b[2].buf, *f = b[3].buf, *d = b[4].buf;
    sums_t s;
    size_t size = 0;
    Py_BEGIN_ALLOW_THREADS
    s = add_up(&b[0], &b[1], &b[2], &b[3], &b[4], MAX_CAPTURED);
    if (!s.error)
        for (Py_ssize_t i = 0; i < s.packets; i++)
            size += 32 + ((le32(c + 4 * i) + 3u) & ~3u) + (epb_flags_of(le16(f + 2 * i)) ? 12 : 0);
    Py_END_ALLOW_THREADS
    PyObject *result = NULL;
    if (s.error) PyErr_SetString(PyExc_ValueError, s.error);
    else result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (result) {
        uint8_t *p = (uint8_t *)PyBytes_AsString(result);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < s.packets; i++) {
            uint32_t captured = le32(c + 4 * i), padded = (captured + 3u) & ~3u;
            uint32_t epb_flags = epb_flags_of(le16(f + 2 * i)), length = 32 + padded + (epb_flags ? 12 : 0);
            uint64_t time = le64(t + 8 * i);
            put32(p, 6); /* Enhanced Packet Block */
            put32(p + 4, length);
            put32(p + 8, interface_id);
            put32(p + 12, (uint32_t)(time >> 32));
            put32(p + 16, (uint32_t)time);
            put32(p + 20, captured);
            put32(p + 24, le32(o + 4 * i));
            memcpy(p + 28, d, captured);
            memset(p + 28 + captured, 0, padded - captured);
            if (epb_flags) {
                uint8_t *option = p + 28 + padded;
                put16(option, 2);
                put16(option + 2, 4);
                put32(option + 4, epb_flags);
                put32(option + 8, 0); /* opt_endofopt */
            }
            put32(p + length - 4, length);
            p += length;
            d += captured;
        }
        Py_END_ALLOW_THREADS
    }
    for (int i = 0; i < 5; i++) PyBuffer_Release(&b[i]);
    return result;
}

static PyObject *columns_pcap_records(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer b[4];
    if (!PyArg_ParseTuple(args, "y*y*y*y*:pcap_records", &b[0], &b[1], &b[2], &b[3])) return NULL;
    const uint8_t *t = b[0].buf, *c = b[1].buf, *o = b[2].buf, *d = b[3].buf;
    sums_t s;
    Py_BEGIN_ALLOW_THREADS
    s = add_up(&b[0], &b[1], &b[2], NULL, &b[3], MAX_CAPTURED);
    if (!s.error && s.last / 1000000000u > UINT32_MAX) s.error = "a time after 2106 doesn't fit a pcap record";
    Py_END_ALLOW_THREADS
    PyObject *result = NULL;
    if (s.error) PyErr_SetString(PyExc_ValueError, s.error);
    else result = PyBytes_FromStringAndSize(NULL, s.packets * 16 + (Py_ssize_t)s.captured);
    if (result) {
        uint8_t *p = (uint8_t *)PyBytes_AsString(result);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < s.packets; i++) {
            uint32_t captured = le32(c + 4 * i);
            uint64_t time = le64(t + 8 * i);
            put32(p, (uint32_t)(time / 1000000000u));
            put32(p + 4, (uint32_t)(time % 1000000000u));
            put32(p + 8, captured);
            put32(p + 12, le32(o + 4 * i));
            memcpy(p + 16, d, captured);
            p += 16 + captured;
            d += captured;
        }
        Py_END_ALLOW_THREADS
    }
    for (int i = 0; i < 4; i++) PyBuffer_Release(&b[i]);
    return result;
}

/* ---- capture file -> columns ------------------------------------------------------------------------------------ */

enum { OUT_TS, OUT_CAP, OUT_ORIG, OUT_FLAGS, OUT_DATA, OUT_INTERFACE, OUTS };
static const Py_ssize_t out_width[OUTS] = {8, 4, 4, 2, 0, 4};

typedef struct {
    uint8_t *out[OUTS];
    Py_ssize_t max_packets, packets;
    size_t data_room, data_used;
    uint32_t snaplen;
} sink_t;

static const char *open_sink(sink_t *s, const Py_buffer *b, int outs, Py_ssize_t max_packets, uint32_t snaplen) {
    memset(s, 0, sizeof *s);
    if (max_packets < 0 || max_packets > PY_SSIZE_T_MAX / 8) return "max_packets is out of range";
    for (int i = 0; i < outs; i++) {
        if (b[i].len < max_packets * out_width[i]) return "a column is too small for max_packets";
        s->out[i] = b[i].buf;
    }
    s->max_packets = max_packets;
    s->data_room = (size_t)b[OUT_DATA].len;
    s->snaplen = snaplen;
    return NULL;
}

/* Take one packet, or say no room (0). `captured` bytes stand at `data`. */
static int put_packet(sink_t *s, uint64_t time, const uint8_t *data, uint32_t captured, uint32_t original,
                      uint16_t flags, uint32_t interface_id) {
    uint32_t kept = captured < s->snaplen ? captured : s->snaplen;
    if (s->packets == s->max_packets || kept > s->data_room - s->data_used) return 0;
    Py_ssize_t i = s->packets++;
    put64(s->out[OUT_TS] + 8 * i, time);
    put32(s->out[OUT_CAP] + 4 * i, kept);
    put32(s->out[OUT_ORIG] + 4 * i, original);
    put16(s->out[OUT_FLAGS] + 2 * i, (uint16_t)(flags | (kept < original ? FLAG_TRUNCATED : 0)));
    if (s->out[OUT_INTERFACE]) put32(s->out[OUT_INTERFACE] + 4 * i, interface_id);
    if (kept) memcpy(s->out[OUT_DATA] + s->data_used, data, kept);
    s->data_used += kept;
    return 1;
}

static PyObject *finish(Py_buffer *in, Py_buffer *b, int outs, const sink_t *s, size_t offset, const char *error,
                        const char *why) {
    PyBuffer_Release(in);
    for (int i = 0; i < outs; i++) PyBuffer_Release(&b[i]);
    if (error) {
        PyErr_SetString(PyExc_ValueError, error);
        return NULL;
    }
    return Py_BuildValue("nnns", s->packets, (Py_ssize_t)s->data_used, (Py_ssize_t)offset, why);
}

static PyObject *columns_read_pcap_records(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer in, b[OUTS];
    Py_ssize_t start, max_packets;
    int big, nanosecond, lengths;
    unsigned int header_bytes, snaplen;
    if (!PyArg_ParseTuple(args, "y*nppIiInw*w*w*w*w*:read_pcap_records", &in, &start, &big, &nanosecond,
                          &header_bytes, &lengths, &snaplen, &max_packets, &b[0], &b[1], &b[2], &b[3], &b[4]))
        return NULL;
    sink_t s;
    const char *error = open_sink(&s, b, OUT_INTERFACE, max_packets, snaplen), *why = "more";
    if (!error && (start < 0 || start > in.len)) error = "offset is outside the buffer";
    if (!error && (header_bytes < 16 || header_bytes > 64)) error = "header_bytes is out of range";
    size_t at = (size_t)(start < 0 ? 0 : start), end = (size_t)in.len;
    if (!error) {
        const uint8_t *p = in.buf;
        Py_BEGIN_ALLOW_THREADS
        while (end - at >= header_bytes) {
            uint32_t captured = get32(p + at + 8, big), original = get32(p + at + 12, big);
            if (lengths == 1 || (lengths == 2 && captured > original)) {
                uint32_t swap = captured;
                captured = original;
                original = swap;
            }
            if (captured > MAX_CAPTURED) {
                why = "invalid";
                break;
            }
            if (captured > end - at - header_bytes) break;
            uint64_t time = (uint64_t)get32(p + at, big) * 1000000000u +
                            (uint64_t)get32(p + at + 4, big) * (nanosecond ? 1u : 1000u);
            if (!put_packet(&s, time, p + at + header_bytes, captured, original, 0, 0)) {
                why = "full";
                break;
            }
            at += header_bytes + captured;
        }
        Py_END_ALLOW_THREADS
    }
    return finish(&in, b, OUT_INTERFACE, &s, at, error, why);
}

/* Units of 10^-r or 2^-r seconds since 1970, plus whole seconds, to nanoseconds. Saturates: before 1970 is 0. */
static uint64_t to_ns(uint64_t ticks, uint32_t resolution, int64_t offset_s) {
    uint64_t seconds, ns;
    uint32_t r = resolution & 0x7F;
    if (resolution & 0x80) {
        uint64_t fraction = r >= 64 ? ticks : r ? ticks & (UINT64_MAX >> (64 - r)) : 0;
        seconds = r >= 64 ? 0 : ticks >> r;
        if (r > 34) fraction = r - 34 >= 64 ? 0 : fraction >> (r - 34); /* 2^-34 s is finer than a nanosecond */
        ns = (fraction * 1000000000u) >> (r > 34 ? 34 : r);
    } else {
        uint64_t unit = 1;
        for (uint32_t i = 0; i < r && i < 19; i++) unit *= 10;
        seconds = r > 19 ? 0 : ticks / unit;
        ns = r > 19 ? 0 : ticks % unit;
        for (uint32_t i = r; i < 9; i++) ns *= 10;
        for (uint32_t i = 9; i < r && i < 19; i++) ns /= 10;
    }
    if (offset_s < 0) {
        uint64_t back = (uint64_t)-(offset_s + 1) + 1; /* no overflow at INT64_MIN */
        if (back > seconds) return 0;
        seconds -= back;
    } else if ((uint64_t)offset_s > UINT64_MAX - seconds) {
        return UINT64_MAX;
    } else {
        seconds += (uint64_t)offset_s;
    }
    if (seconds > (UINT64_MAX - ns) / 1000000000u) return UINT64_MAX;
    return seconds * 1000000000u + ns;
}

/* The epb_flags option among a block's options, as bits of our flags column; 0 when absent or malformed. */
static uint16_t find_epb_flags(const uint8_t *p, size_t size, int big) {
    while (size >= 4) {
        uint16_t code = get16(p, big);
        size_t length = get16(p + 2, big), padded = (length + 3) & ~(size_t)3;
        if (code == 0 || padded > size - 4) return 0;
        if (code == 2 && length == 4) {
            uint32_t flags = get32(p + 4, big);
            return (uint16_t)((flags & FLAG_LOW) | (flags & EPB_CHECKSUM_NOT_READY ? FLAG_CHECKSUM_NOT_READY : 0) |
                              (flags & EPB_CHECKSUM_VALID ? FLAG_CHECKSUM_VALID : 0));
        }
        p += 4 + padded;
        size -= 4 + padded;
    }
    return 0;
}

/* One packet block of `length` bytes at `p`: 1 taken, 0 no room, -1 invalid. */
static int take_block(sink_t *s, const uint8_t *p, uint32_t type, uint32_t length, int big, const uint8_t *interfaces,
                      uint32_t interface_count) {
    const uint8_t *data, *interface;
    uint32_t room, captured, original, interface_id;
    uint64_t ticks = 0;
    int timed = type != 3;
    if (timed) { /* enhanced (6) and obsolete (2): the same but for the interface's width */
        if (length < 32) return -1;
        interface_id = type == 6 ? get32(p + 8, big) : get16(p + 8, big);
        ticks = (uint64_t)get32(p + 12, big) << 32 | get32(p + 16, big);
        captured = get32(p + 20, big);
        original = get32(p + 24, big);
        data = p + 28;
        room = length - 32;
        if (interface_id >= interface_count) return -1;
        interface = interfaces + 24 * (size_t)interface_id;
    } else { /* simple: no time, interface 0, cut at that interface's snaplen */
        if (length < 16 || interface_count == 0) return -1;
        interface_id = 0;
        interface = interfaces;
        original = captured = get32(p + 8, big);
        uint32_t snaplen = le32(interface + 4);
        if (snaplen && captured > snaplen) captured = snaplen;
        data = p + 12;
        room = length - 16;
    }
    if (captured > MAX_CAPTURED || captured > room) return -1;
    uint32_t padded = (captured + 3u) & ~3u;
    uint16_t flags = 0;
    if (timed && padded < room) flags = find_epb_flags(data + padded, room - padded, big);
    uint64_t time = timed ? to_ns(ticks, le32(interface), (int64_t)le64(interface + 8)) : 0;
    return put_packet(s, time, data, captured, original, flags, interface_id);
}

static PyObject *columns_read_pcapng_packets(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer in, interfaces, b[OUTS];
    Py_ssize_t start, max_packets;
    int big;
    unsigned int snaplen;
    if (!PyArg_ParseTuple(args, "y*npy*Inw*w*w*w*w*w*:read_pcapng_packets", &in, &start, &big, &interfaces, &snaplen,
                          &max_packets, &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]))
        return NULL;
    sink_t s;
    const char *error = open_sink(&s, b, OUTS, max_packets, snaplen), *why = "more";
    if (!error && (start < 0 || start > in.len)) error = "offset is outside the buffer";
    if (!error && interfaces.len % 24) error = "interfaces: 24 bytes each are needed";
    size_t at = (size_t)(start < 0 ? 0 : start), end = (size_t)in.len;
    if (!error) {
        const uint8_t *p = in.buf;
        Py_BEGIN_ALLOW_THREADS
        while (end - at >= 12) {
            uint32_t type = get32(p + at, big), length = get32(p + at + 4, big);
            if (type != 6 && type != 3 && type != 2) {
                why = "block";
                break;
            }
            if (length < 12 || length % 4 || length > MAX_BLOCK) {
                why = "invalid";
                break;
            }
            if (length > end - at) break;
            if (get32(p + at + length - 4, big) != length) {
                why = "invalid";
                break;
            }
            int taken = take_block(&s, p + at, type, length, big, interfaces.buf, (uint32_t)(interfaces.len / 24));
            if (taken <= 0) {
                why = taken ? "invalid" : "full";
                break;
            }
            at += length;
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&interfaces);
    return finish(&in, b, OUTS, &s, at, error, why);
}

/* The packets of one interface out of mixed columns. */
static PyObject *columns_select(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer ids, in[5], b[OUTS];
    unsigned int wanted;
    if (!PyArg_ParseTuple(args, "Iy*y*y*y*y*y*w*w*w*w*w*:select", &wanted, &ids, &in[0], &in[1], &in[2], &in[3],
                          &in[4], &b[0], &b[1], &b[2], &b[3], &b[4]))
        return NULL;
    sink_t s;
    memset(&s, 0, sizeof s);
    const char *error = NULL;
    Py_BEGIN_ALLOW_THREADS
    sums_t sums = add_up(&in[0], &in[1], &in[2], &in[3], &in[4], MAX_CAPTURED);
    error = sums.error;
    if (!error && ids.len != sums.packets * 4) error = "the columns' lengths differ";
    if (!error) error = open_sink(&s, b, OUT_INTERFACE, sums.packets, UINT32_MAX);
    const uint8_t *t = in[0].buf, *c = in[1].buf, *o = in[2].buf, *f = in[3].buf, *d = in[4].buf, *id = ids.buf;
    for (Py_ssize_t i = 0; !error && i < sums.packets; i++) {
        uint32_t captured = le32(c + 4 * i);
        if (le32(id + 4 * i) == wanted &&
            !put_packet(&s, le64(t + 8 * i), d, captured, le32(o + 4 * i), le16(f + 2 * i), 0))
            error = "the data column is too small";
        d += captured;
    }
    Py_END_ALLOW_THREADS
    for (int i = 0; i < 5; i++) {
        PyBuffer_Release(&in[i]);
        PyBuffer_Release(&b[i]);
    }
    PyBuffer_Release(&ids);
    if (error) {
        PyErr_SetString(PyExc_ValueError, error);
        return NULL;
    }
    return Py_BuildValue("nn", s.packets, (Py_ssize_t)s.data_used);
}

static PyMethodDef methods[] = {
    {"sums", columns_sums, METH_VARARGS, NULL},
    {"epb_blocks", columns_epb_blocks, METH_VARARGS, NULL},
    {"pcap_records", columns_pcap_records, METH_VARARGS, NULL},
    {"read_pcap_records", columns_read_pcap_records, METH_VARARGS, NULL},
    {"read_pcapng_packets", columns_read_pcapng_packets, METH_VARARGS, NULL},
    {"select", columns_select, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_columns", NULL, 0, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__columns(void) { return PyModuleDef_Init(&module); }
