/* Numbers in network byte order. Plain C without Python. */
#ifndef WIREPOOL_BYTES_H
#define WIREPOOL_BYTES_H

#include <stdint.h>

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static inline uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }

#endif
