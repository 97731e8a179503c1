/* A batch's columns to the lines of a bulk request, in one call that releases the interpreter's lock.
 *
 * Two lines a packet: {"create":…} with an id that follows from the batch's name and the packet's place in it, and the
 * document. hub/pool/elastic/lines.py says which columns there are; _writing.h how a value is written. The columns are
 * the hub's own arrays, yet every length, index and offset in them is checked. Limited API of 3.11. Stub: _bulk.pyi.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

#include "_writing.h"

enum { MOST_COLUMNS = 256, MOST_BYTES = 1 << 30 };
/* Those of lines.py's Kind. */
enum { UNSIGNED, SIGNED, TIME, BOOLEAN, IP, MAC, HASH, WORD, TEXT, BYTES, KINDS };

typedef struct {
    int kind;
    size_t width;            /* of an entry, in bytes */
    const char *name;        /* `,"source.ip":` */
    size_t name_bytes;
    const uint8_t *values;
    const uint8_t *present;  /* an entry per packet, or NULL: all */
    const char *words;       /* JSON strings end to end, or the batch's data (BYTES) */
    size_t words_bytes;
    const uint8_t *ends;     /* where each word ends, u32 */
    size_t word_count;
    Py_buffer held[5];
    int holds;
} Column;

typedef struct { char *begin, *at, *end; } Room;

/* Room for `bytes` more; 0: there is none. */
static int reserve(Room *room, size_t bytes) {
    if ((size_t)(room->end - room->at) >= bytes) return 1;
    size_t used = (size_t)(room->at - room->begin), size = (size_t)(room->end - room->begin);
    if (bytes > MOST_BYTES || used > MOST_BYTES - bytes) return 0;
    size_t wanted = used + bytes > 2 * size ? used + bytes : 2 * size;
    char *moved = realloc(room->begin, wanted);
    if (!moved) return 0;
    *room = (Room){moved, moved + used, moved + wanted};
    return 1;
}

static uint64_t entry(const uint8_t *at, size_t width) {
    uint16_t two;
    uint32_t four;
    uint64_t eight;
    switch (width) {
    case 1: return *at;
    case 2: memcpy(&two, at, 2); return two;
    case 4: memcpy(&four, at, 4); return four;
    default: memcpy(&eight, at, 8); return eight;
    }
}

static int64_t signed_entry(const uint8_t *at, size_t width) {
    uint64_t value = entry(at, width);
    switch (width) {
    case 1: return (int8_t)value;
    case 2: return (int16_t)value;
    case 4: return (int32_t)value;
    default: return (int64_t)value;
    }
}

static uint32_t end_of(const Column *c, uint64_t word) {
    return (uint32_t)entry(c->ends + 4 * word, 4);
}

/* How long the value may get with its name; what is wrong when it points beyond what there is. */
static const char *longest(const Column *c, const uint8_t *at, size_t *bytes) {
    uint64_t from[2];
    static const uint8_t fixed[KINDS] = {
        [UNSIGNED] = NUMBER_BYTES, [SIGNED] = NUMBER_BYTES + 1, [TIME] = TIME_BYTES, [BOOLEAN] = 5,
        [IP] = IP_BYTES, [MAC] = MAC_BYTES, [HASH] = HASH_BYTES,
    };
    *bytes = c->name_bytes + fixed[c->kind];
    if (c->kind == WORD) {
        uint64_t word = entry(at, c->width);
        if (word >= c->word_count) return "a word is beyond its table";
        uint32_t begin = word ? end_of(c, word - 1) : 0, end = end_of(c, word);
        if (end < begin || end > c->words_bytes) return "the words' ends are out of order";
        *bytes += end - begin;
    } else if (c->kind == TEXT) {
        *bytes += 6 * c->width + 2;
    } else if (c->kind == BYTES) {
        memcpy(from, at, 16);
        if (from[0] > from[1] || from[1] > c->words_bytes) return "bytes are beyond the data";
        *bytes += (size_t)(from[1] - from[0] + 2) / 3 * 4 + 2;
    }
    return NULL;
}

static char *written(char *out, const Column *c, const uint8_t *at, Day *known) {
    uint64_t from[2], word;
    out = copied(out, c->name, c->name_bytes);
    switch (c->kind) {
    case UNSIGNED: return number(out, entry(at, c->width));
    case SIGNED: return signed_number(out, signed_entry(at, c->width));
    case TIME: return instant(out, signed_entry(at, 8), known);
    case BOOLEAN: return *at ? copied(out, "true", 4) : copied(out, "false", 5);
    case IP: return ip(out, at);
    case MAC: return mac(out, at);
    case HASH: return hash(out, entry(at, 8));
    case TEXT: return text(out, at, c->width);
    case BYTES:
        memcpy(from, at, 16);
        return base64(out, (const uint8_t *)c->words + from[0], (size_t)(from[1] - from[0]));
    default:
        word = entry(at, c->width);
        from[0] = word ? end_of(c, word - 1) : 0;
        return copied(out, c->words + from[0], end_of(c, word) - (size_t)from[0]);
    }
}

static const char *write_all(Room *room, size_t first, size_t last, const Py_buffer *action, const Py_buffer *constant,
                             const Column *columns, size_t count, uint8_t *ends) {
    Day known = {-1, ""};
    for (size_t packet = first; packet < last; packet++) {
        if (!reserve(room, (size_t)action->len + (size_t)constant->len + NUMBER_BYTES + 8)) return "";
        room->at = copied(room->at, action->buf, (size_t)action->len);
        room->at = number(room->at, packet);
        room->at = copied(room->at, "\"}}\n{", 5);
        room->at = copied(room->at, constant->buf, (size_t)constant->len);
        for (size_t i = 0; i < count; i++) {
            const Column *c = &columns[i];
            if (c->present && !c->present[packet]) continue;
            const uint8_t *at = c->values + packet * c->width;
            size_t bytes;
            const char *error = longest(c, at, &bytes);
            if (error) return error;
            if (!reserve(room, bytes + 2)) return "";
            room->at = written(room->at, c, at, &known);
        }
        room->at = copied(room->at, "}\n", 2);
        uint64_t end = (uint64_t)(room->at - room->begin);
        memcpy(ends + 8 * (packet - first), &end, 8);
    }
    return NULL;
}

static int hold(Column *c, PyObject *from, Py_buffer **held) {
    *held = NULL;
    if (from == Py_None) return 1;
    if (PyObject_GetBuffer(from, &c->held[c->holds], PyBUF_SIMPLE) < 0) return 0;
    *held = &c->held[c->holds++];
    return 1;
}

static int fits(const Column *c) {
    switch (c->kind) {
    case UNSIGNED: case SIGNED: case WORD: return c->width == 1 || c->width == 2 || c->width == 4 || c->width == 8;
    case TIME: case HASH: return c->width == 8;
    case BOOLEAN: return c->width == 1;
    case MAC: return c->width == 6;
    case TEXT: return c->width >= 1 && c->width <= 4096;
    case IP: case BYTES: return c->width == 16;
    default: return 0;
    }
}

/* One of the tuples (kind, name, values, width, present, words, ends); 0 with an exception otherwise. */
static int take(Column *c, PyObject *given, size_t packets) {
    PyObject *name, *values, *present, *words, *ends;
    Py_ssize_t width;
    Py_buffer *held;
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_ValueError, "a column is a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(given, "iSOnOOO", &c->kind, &name, &values, &width, &present, &words, &ends)) return 0;
    c->width = width < 0 ? 0 : (size_t)width;
    if (c->kind < 0 || c->kind >= KINDS || !fits(c)) {
        PyErr_SetString(PyExc_ValueError, "no kind has entries of this width");
        return 0;
    }
    if (!hold(c, name, &held)) return 0;
    c->name = held->buf, c->name_bytes = (size_t)held->len;
    if (!hold(c, values, &held)) return 0;
    if (!held || (size_t)held->len != packets * c->width) {
        PyErr_SetString(PyExc_ValueError, "a column hasn't an entry per packet");
        return 0;
    }
    c->values = held->buf;
    if (!hold(c, present, &held)) return 0;
    if (held && (size_t)held->len != packets) {
        PyErr_SetString(PyExc_ValueError, "what is present hasn't an entry per packet");
        return 0;
    }
    c->present = held ? held->buf : NULL;
    if (!hold(c, words, &held)) return 0;
    c->words = "";
    if (held && held->len) c->words = held->buf, c->words_bytes = (size_t)held->len;
    if (!hold(c, ends, &held)) return 0;
    if (held) c->ends = held->buf, c->word_count = (size_t)held->len / 4;
    return 1;
}

static PyObject *lines(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t packets, first, last;
    Py_buffer action, constant, ends;
    PyObject *given, *made = NULL;
    if (!PyArg_ParseTuple(args, "nnny*y*O!w*:lines", &packets, &first, &last, &action, &constant, &PyTuple_Type,
                          &given, &ends))
        return NULL;
    Py_ssize_t count = PyTuple_Size(given);
    const char *error = NULL;
    Room room = {0};
    Column *columns = NULL;
    Py_ssize_t taken = 0;
    if (first < 0 || last < first || packets < last || packets > 1 << 24) error = "no such packets";
    else if (ends.len != 8 * (last - first)) error = "the room for the ends isn't 8 bytes per packet";
    else if (!action.len || !constant.len) error = "a line has no beginning";
    else if (count > MOST_COLUMNS || action.len > 1024 || constant.len > 1 << 16) error = "too much for a line";
    else if (!(columns = PyMem_Calloc((size_t)count + 1, sizeof *columns))) error = "";
    int good = !error;
    for (; good && taken < count; taken++) good = take(&columns[taken], PyTuple_GetItem(given, taken), (size_t)packets);
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        error = write_all(&room, (size_t)first, (size_t)last, &action, &constant, columns, (size_t)count, ends.buf);
        Py_END_ALLOW_THREADS
        if (!error) made = PyBytes_FromStringAndSize(room.begin, room.at - room.begin);
    }
    free(room.begin);
    for (Py_ssize_t i = 0; i < taken; i++)
        for (int k = 0; k < columns[i].holds; k++) PyBuffer_Release(&columns[i].held[k]);
    PyMem_Free(columns);
    PyBuffer_Release(&action);
    PyBuffer_Release(&constant);
    PyBuffer_Release(&ends);
    if (error && !*error) return PyErr_NoMemory();
    if (error) PyErr_SetString(PyExc_ValueError, error);
    return made;
}

static PyMethodDef functions[] = {
    {"lines", lines, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_bulk", NULL, 0, functions, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__bulk(void) { return PyModuleDef_Init(&definition); }
