/* Values as JSON text, into room that the caller has made sure of. Plain C without Python.
 *
 * Each function says how much it writes at most; none looks at how much room there is.
 */
#ifndef WIREPOOL_WRITING_H
#define WIREPOOL_WRITING_H

#include <stdint.h>
#include <string.h>

enum { NUMBER_BYTES = 20, TIME_BYTES = 32, IP_BYTES = 41, MAC_BYTES = 19, HASH_BYTES = 18 };

static inline char *copied(char *out, const void *from, size_t bytes) {
    memcpy(out, from, bytes);
    return out + bytes;
}

/* At most NUMBER_BYTES. */
static inline char *number(char *out, uint64_t value) {
    static const char pairs[] =
        "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
        "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";
    char digits[NUMBER_BYTES];
    char *first = digits + NUMBER_BYTES;
    while (value >= 100) {
        first -= 2;
        memcpy(first, pairs + 2 * (value % 100), 2);
        value /= 100;
    }
    if (value >= 10) {
        first -= 2;
        memcpy(first, pairs + 2 * value, 2);
    } else *--first = (char)('0' + value);
    return copied(out, first, (size_t)(digits + NUMBER_BYTES - first));
}

static inline char *signed_number(char *out, int64_t value) {
    if (value < 0) *out++ = '-';
    return number(out, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

static inline char *padded(char *out, uint32_t value, int width) {
    for (int i = width; i-- > 0; value /= 10) out[i] = (char)('0' + value % 10);
    return out + width;
}

/* The seconds of a day and its date, kept from one packet to the next. */
typedef struct { int64_t day; char text[10]; } Day;

/* Year, month, day of days since 1970 (not before): H. Hinnant's civil_from_days, with the year beginning in March. */
static inline void date_of(Day *known, int64_t day) {
    if (known->day == day) return;
    int64_t z = day + 719468, era = z / 146097;
    uint32_t of_era = (uint32_t)(z - era * 146097);
    uint32_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    uint32_t of_year = of_era - (365 * year + year / 4 - year / 100);
    uint32_t shifted = (5 * of_year + 2) / 153;
    uint32_t month = shifted < 10 ? shifted + 3 : shifted - 9;
    year += (uint32_t)(era * 400) + (month <= 2);
    char *out = padded(known->text, year, 4);
    *out++ = '-';
    out = padded(out, month, 2);
    *out++ = '-';
    padded(out, of_year - (153 * shifted + 2) / 5 + 1, 2);
    known->day = day;
}

/* "2026-11-26T12:00:00.123456789Z" with the quotes; times before 1970 as 1970, which is the first that date_nanos has. */
static inline char *instant(char *out, int64_t ns, Day *known) {
    if (ns < 0) ns = 0;
    int64_t seconds = ns / 1000000000;
    uint32_t fraction = (uint32_t)(ns % 1000000000), of_day = (uint32_t)(seconds % 86400);
    date_of(known, seconds / 86400);
    *out++ = '"';
    out = copied(out, known->text, 10);
    *out++ = 'T';
    out = padded(out, of_day / 3600, 2);
    *out++ = ':';
    out = padded(out, of_day / 60 % 60, 2);
    *out++ = ':';
    out = padded(out, of_day % 60, 2);
    *out++ = '.';
    out = padded(out, fraction, 9);
    return copied(out, "Z\"", 2);
}

static const char HEX[] = "0123456789abcdef";

static inline char *group(char *out, uint32_t value) {
    int shift = value > 0xfff ? 12 : value > 0xff ? 8 : value > 0xf ? 4 : 0;
    for (; shift >= 0; shift -= 4) *out++ = HEX[value >> shift & 15];
    return out;
}

/* IPv6 as RFC 5952 wants it, ::ffff:a.b.c.d as the IPv4 address that it stands for; with quotes. */
static inline char *ip(char *out, const uint8_t *a) {
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    *out++ = '"';
    if (!memcmp(a, mapped, 12)) {
        for (int i = 12; i < 16; i++) {
            if (i > 12) *out++ = '.';
            out = number(out, a[i]);
        }
        *out++ = '"';
        return out;
    }
    int best = -1, length = 1; /* the longest run of at least two zero groups, the first of equals */
    for (int i = 0; i < 8;) {
        int run = 0;
        while (i + run < 8 && !a[2 * (i + run)] && !a[2 * (i + run) + 1]) run++;
        if (run > length) best = i, length = run;
        i += run ? run : 1;
    }
    for (int i = 0; i < 8; i++) {
        if (i == best) {
            out = copied(out, "::", 2);
            i += length - 1;
            continue;
        }
        if (i && (best < 0 || i != best + length)) *out++ = ':';
        out = group(out, (uint32_t)a[2 * i] << 8 | a[2 * i + 1]);
    }
    *out++ = '"';
    return out;
}

static inline char *mac(char *out, const uint8_t *a) {
    *out++ = '"';
    for (int i = 0; i < 6; i++) {
        if (i) *out++ = ':';
        *out++ = HEX[a[i] >> 4];
        *out++ = HEX[a[i] & 15];
    }
    *out++ = '"';
    return out;
}

static inline char *hash(char *out, uint64_t value) {
    *out++ = '"';
    for (int shift = 60; shift >= 0; shift -= 4) *out++ = HEX[value >> shift & 15];
    *out++ = '"';
    return out;
}

/* 0-terminated ASCII of at most `width` bytes; whatever else it holds is escaped. At most 6 * width + 2. */
static inline char *text(char *out, const uint8_t *from, size_t width) {
    *out++ = '"';
    for (size_t i = 0; i < width && from[i]; i++) {
        uint8_t c = from[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            *out++ = (char)c;
            continue;
        }
        out = copied(out, "\\u00", 4);
        *out++ = HEX[c >> 4];
        *out++ = HEX[c & 15];
    }
    *out++ = '"';
    return out;
}

/* Base64 with padding and quotes: 4 * ceil(bytes / 3) + 2. */
static inline char *base64(char *out, const uint8_t *from, size_t bytes) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    *out++ = '"';
    for (; bytes >= 3; bytes -= 3, from += 3) {
        uint32_t bits = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 8 | from[2];
        for (int shift = 18; shift >= 0; shift -= 6) *out++ = letters[bits >> shift & 63];
    }
    if (bytes) {
        uint32_t bits = (uint32_t)from[0] << 16 | (bytes > 1 ? (uint32_t)from[1] << 8 : 0);
        *out++ = letters[bits >> 18 & 63];
        *out++ = letters[bits >> 12 & 63];
        *out++ = bytes > 1 ? letters[bits >> 6 & 63] : '=';
        *out++ = '=';
    }
    *out++ = '"';
    return out;
}

#endif
