/* SHA-1 of one short message, base64 of its digest, and SipHash-1-3. Plain C without Python.
 *
 * Sources: RFC 3174, RFC 4648, Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012) with one round per
 * word and three at the end, as CPython hashes bytes.
 */
#ifndef WIREPOOL_DIGEST_H
#define WIREPOOL_DIGEST_H

#include <stdint.h>
#include <string.h>

enum { SHORT_MESSAGE = 55, SHA1_BYTES = 20 };

static inline uint32_t left32(uint32_t v, int by) { return v << by | v >> (32 - by); }
static inline uint64_t left64(uint64_t v, int by) { return v << by | v >> (64 - by); }
static inline uint64_t word64(const uint8_t *p) { /* little endian on every machine; compilers make it one load */
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 | (uint64_t)p[4] << 32 |
           (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}

/* SHA-1 of at most SHORT_MESSAGE bytes: one block. */
static void sha1_short(const uint8_t *message, unsigned bytes, uint8_t digest[SHA1_BYTES]) {
    uint8_t block[64] = {0};
    uint32_t w[80], h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    memcpy(block, message, bytes);
    block[bytes] = 0x80, block[62] = (uint8_t)(bytes >> 5), block[63] = (uint8_t)(bytes << 3);
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = left32(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? ((b & c) | (~b & d)) + 0x5a827999 : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                   : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc : (b ^ c ^ d) + 0xca62c1d6;
        uint32_t next = left32(a, 5) + f + e + w[i];
        e = d, d = c, c = left32(b, 30), b = a, a = next;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    for (int i = 0; i < SHA1_BYTES; i++) digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* 28 characters, the last a padding "=". */
static void base64_digest(const uint8_t digest[SHA1_BYTES], char *text) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 7; i++) {
        const uint8_t *p = digest + 3 * i;
        uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | (i < 6 ? p[2] : 0);
        for (int k = 0; k < 4; k++) text[4 * i + k] = letters[bits >> (18 - 6 * k) & 63];
    }
    text[27] = '=';
}

typedef struct { uint64_t k0, k1; } HashKey;

static inline void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[1] = left64(v[1], 13), v[1] ^= v[0], v[0] = left64(v[0], 32);
    v[2] += v[3], v[3] = left64(v[3], 16), v[3] ^= v[2];
    v[0] += v[3], v[3] = left64(v[3], 21), v[3] ^= v[0];
    v[2] += v[1], v[1] = left64(v[1], 17), v[1] ^= v[2], v[2] = left64(v[2], 32);
}

static inline void sip_begin(uint64_t v[4], HashKey key) {
    v[0] = key.k0 ^ 0x736f6d6570736575u, v[1] = key.k1 ^ 0x646f72616e646f6du;
    v[2] = key.k0 ^ 0x6c7967656e657261u, v[3] = key.k1 ^ 0x7465646279746573u;
}
static inline void sip_word(uint64_t v[4], uint64_t word) {
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
}
static inline uint64_t sip_end(uint64_t v[4]) {
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t siphash13(HashKey key, const uint8_t *data, uint32_t bytes) {
    uint64_t v[4], last = (uint64_t)bytes << 56;
    uint32_t whole = bytes & ~7u;
    sip_begin(v, key);
    for (uint32_t at = 0; at < whole; at += 8) sip_word(v, word64(data + at));
    for (uint32_t i = 0; i < (bytes & 7); i++) last |= (uint64_t)data[whole + i] << (8 * i);
    sip_word(v, last);
    return sip_end(v);
}

/* The same of numbers, as if their bytes stood in memory, the lowest first. */
static uint64_t siphash13_words(HashKey key, const uint64_t *words, unsigned count) {
    uint64_t v[4];
    sip_begin(v, key);
    for (unsigned i = 0; i < count; i++) sip_word(v, words[i]);
    sip_word(v, (uint64_t)(8 * count) << 56);
    return sip_end(v);
}

#endif
