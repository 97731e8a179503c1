/* Which packets belong to wirepool's own connections (agent/own_traffic.py makes the table). Plain C without Python. */
#ifndef WIREPOOL_OWN_TRAFFIC_H
#define WIREPOOL_OWN_TRAFFIC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_bytes.h"

enum { OWN_ENTRY_BYTES = 20 };

/* Is this TCP or UDP between somebody and one of `entries` (version 4 or 6, 0, port, 16 bytes of address)? Looks behind
 * two VLAN tags that are in the frame. Later fragments and IPv6 extension headers show no ports: not matched. */
static inline int is_own(const uint8_t *frame, uint32_t bytes, int ethernet, const uint8_t *entries, ptrdiff_t count) {
    uint32_t at = 0, transport, address_bytes;
    if (ethernet) {
        if (bytes < 14) return 0;
        uint32_t type = be16(frame + 12);
        at = 14;
        for (int tags = 0; tags < 2 && (type == 0x8100 || type == 0x88a8); tags++, at += 4) {
            if (bytes < at + 4) return 0;
            type = be16(frame + at + 2);
        }
        if (type != 0x0800 && type != 0x86dd) return 0;
    }
    if (bytes < at + 20) return 0;
    const uint8_t *ip = frame + at, *source;
    uint8_t version = ip[0] >> 4, protocol;
    if (version == 4) {
        if (be16(ip + 6) & 0x1fff) return 0;
        protocol = ip[9], source = ip + 12, address_bytes = 4, transport = at + 4u * (ip[0] & 15);
        if (transport < at + 20) return 0;
    } else if (version == 6) {
        protocol = ip[6], source = ip + 8, address_bytes = 16, transport = at + 40;
    } else {
        return 0;
    }
    if ((protocol != 6 && protocol != 17) || bytes < transport + 4) return 0;
    const uint8_t *ports = frame + transport;
    for (; count > 0; count--, entries += OWN_ENTRY_BYTES) {
        if (entries[0] != version) continue;
        if (!memcmp(ports, entries + 2, 2) && !memcmp(source, entries + 4, address_bytes)) return 1;
        if (!memcmp(ports + 2, entries + 2, 2) && !memcmp(source + address_bytes, entries + 4, address_bytes)) return 1;
    }
    return 0;
}

#endif
