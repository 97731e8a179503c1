/* Reading a frame that may end anywhere. Plain C without Python.
 *
 * Rule: nothing is read before `lacks` has said that it is there. Offsets and lengths are below 2**31 each, so that no
 * sum of two wraps.
 */
#ifndef WIREPOOL_READING_H
#define WIREPOOL_READING_H

#include "_observation.h"

typedef struct {
    const uint8_t *frame;
    uint32_t captured;   /* bytes of the frame that are there */
    uint32_t end;        /* where the layer at hand ends on the wire; at most the frame's original length */
    int in_fragment;     /* a packet around this one is the first fragment: lengths may go beyond `end` */
    Observation *seen;
} Walk;

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static inline uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }

static void note(const Walk *w, int problem) {
    if (!w->seen->problem) w->seen->problem = (uint8_t)problem;
}

/* Whether fewer than `count` bytes are at `at`; then says so. */
static int lacks(const Walk *w, uint32_t at, uint32_t count, int layer) {
    uint32_t there = least(w->captured, w->end);
    if (at <= there && count <= there - at) return 0;
    note(w, at <= w->end && count <= w->end - at ? layer : layer + SHORT);
    return 1;
}

static void payload(const Walk *w, uint32_t at) {
    uint32_t there = least(w->captured, w->end);
    w->seen->payload_offset = at;
    w->seen->payload_bytes = w->end > at ? w->end - at : 0;
    w->seen->payload_captured_bytes = there > at ? there - at : 0;
}

/* A header that can't be read or trusted: there is no payload that could be told from it. */
static void no_payload(const Walk *w, uint32_t at) {
    w->seen->payload_offset = at, w->seen->payload_bytes = w->seen->payload_captured_bytes = 0;
}

/* A header is looked for at `at`: what is said of its place when it can't be read. Around a tunnel's inside, nothing. */
static void seek(const Walk *w, uint32_t at) {
    if (w->seen->ip_version) return;
    w->seen->network_offset = at;
    no_payload(w, at);
}

/* Not a packet of IP or ARP: all of it is payload. */
static void other(const Walk *w, uint32_t at) {
    if (!w->seen->ip_version) w->seen->network_offset = at;
    payload(w, at);
}

#endif
