/* Where a packet's payload begins. Plain C without Python.
 *
 * Rule: only what is certainly a header counts as one. An IP header that contradicts itself, a protocol that isn't known
 * here and a later fragment begin the payload where they begin; what lies inside a tunnel is payload of the outer packet.
 * Sources: RFC 791 (IPv4), 8200 (IPv6), 4302 (AH), 9293 (TCP), 768 (UDP), 3828 (UDP-Lite), 792 and 4443 (ICMP), 826 (ARP),
 * IEEE 802.1Q (tags); link types: www.tcpdump.org/linktypes.html.
 */
#ifndef WIREPOOL_PAYLOAD_H
#define WIREPOOL_PAYLOAD_H

#include <stdint.h>

/* What is known of the ports: nothing (it may be any protocol's), there are none, or which. */
enum { PORTS_UNKNOWN, PORTS_NONE, PORTS_SEEN };
enum { MOST_TAGS = 8, MOST_EXTENSIONS = 8, NO_END = UINT32_MAX / 2 };

typedef struct {
    uint32_t begin; /* bytes before the payload; may lie behind what was captured */
    int ports;
    uint16_t source, destination;
} Payload;

static inline uint32_t lesser(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint16_t big16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static int is_tag(uint32_t type) { return type == 0x8100 || type == 0x88a8 || type == 0x9100 || type == 0x9200; }

/* IPv6 extension headers whose second byte is their length in 8 bytes, without the first 8. */
static int is_extension(uint8_t protocol) {
    return protocol == 0 || protocol == 43 || protocol == 60 || protocol == 135 || protocol == 139 || protocol == 140;
}

/* TCP, UDP and ICMP at `at`; the packet ends at `end` (by the IP header), which padding may follow. */
static Payload transport_payload(const uint8_t *frame, uint32_t bytes, uint32_t at, uint32_t end, int version,
                                 uint8_t protocol) {
    Payload p = {at, PORTS_UNKNOWN, 0, 0};
    const uint8_t *header = frame + at;
    uint32_t there = lesser(bytes, end) - at, header_bytes;
    if (protocol == 6) {
        header_bytes = there < 20 ? 20 : 4u * (header[12] >> 4); /* cut by the snaplen, or by fragmentation */
        if (header_bytes < 20) header_bytes = 20; /* the fixed part, whatever it says of itself */
    } else if (protocol == 17 || protocol == 136) {
        header_bytes = 8;
    } else if (protocol == (version == 4 ? 1 : 58)) {
        p.begin = at + lesser(8, end - at);
        /* An error message quotes the packet it is about, ports and all. */
        if (there && (version == 4 ? header[0] != 3 && header[0] != 4 && header[0] != 5 && header[0] != 11 &&
                                         header[0] != 12
                                   : header[0] >= 128))
            p.ports = PORTS_NONE;
        return p;
    } else {
        return p;
    }
    p.begin = at + lesser(header_bytes, end - at);
    if (there >= 4) p.ports = PORTS_SEEN, p.source = big16(header), p.destination = big16(header + 2);
    return p;
}

/* `wanted`: 4, 6, or 0 for what the first half byte says. */
static Payload ip_payload(const uint8_t *frame, uint32_t bytes, uint32_t at, int wanted) {
    Payload p = {at, PORTS_UNKNOWN, 0, 0};
    if (bytes <= at) return p;
    int version = frame[at] >> 4;
    if ((wanted && version != wanted) || (version != 4 && version != 6)) return p;
    uint32_t fixed = version == 4 ? 20 : 40, end;
    uint8_t protocol;
    const uint8_t *ip = frame + at;
    uint32_t header = 4u * (ip[0] & 15), total = bytes < at + 4 ? 1 : big16(ip + 2);
    if (version == 4 && (header < 20 || (total && total < header))) return p;
    if (bytes < at + fixed) {
        p.begin = bytes;
        return p;
    }
    if (version == 4) {
        end = total ? at + total : NO_END; /* 0: a segment before the card splits it ("big TCP") */
        protocol = ip[9], p.begin = at + header;
        if (big16(ip + 6) & 0x1fff) return p;
    } else {
        uint32_t length = big16(ip + 4);
        end = length ? at + 40 + length : NO_END;
        protocol = ip[6], p.begin = at + 40;
    }
    for (int left = MOST_EXTENSIONS;; left--) {
        at = p.begin;
        int authentication = protocol == 51, fragment = version == 6 && protocol == 44;
        if (!authentication && !fragment && !(version == 6 && is_extension(protocol))) break;
        if (!left) return p;
        uint32_t there = lesser(bytes, end);
        if (there < at + 2) return p;
        header = authentication ? 4u * (frame[at + 1] + 2u) : fragment ? 8 : 8u * (frame[at + 1] + 1u);
        if (header > end - at || (authentication && header < 12)) return p;
        if (there < at + 8) {
            p.begin = there;
            return p;
        }
        p.begin = at + header;
        if (fragment && big16(frame + at + 2) & 0xfff8) return p;
        protocol = frame[at];
    }
    if (bytes <= at) return p;
    return transport_payload(frame, bytes, at, end, version, protocol);
}

static Payload network_payload(const uint8_t *frame, uint32_t bytes, uint32_t at, uint32_t type) {
    Payload p = {at, PORTS_UNKNOWN, 0, 0};
    for (int left = MOST_TAGS; left && is_tag(type); left--) {
        if (bytes < at + 4) {
            p.begin = bytes;
            return p;
        }
        type = big16(frame + at + 2), p.begin = at += 4;
    }
    if (type == 0x0800) return ip_payload(frame, bytes, at, 4);
    if (type == 0x86dd) return ip_payload(frame, bytes, at, 6);
    if (type == 0x88cc) { /* LLDP: says who is there, carries nobody's data */
        p.begin = bytes, p.ports = PORTS_NONE;
    } else if (type == 0x0806 || type == 0x8035) { /* ARP, RARP */
        if (bytes < at + 8) p.begin = bytes;
        else p.begin = at + (big16(frame + at + 4) == 0x0604 ? 28 : 8);
        p.ports = PORTS_NONE;
    }
    return p;
}

static Payload payload_of(const uint8_t *frame, uint32_t bytes, int link_type) {
    Payload p = {0, PORTS_UNKNOWN, 0, 0}, short_header = {bytes, PORTS_UNKNOWN, 0, 0};
    switch (link_type) {
    case 1: return bytes < 14 ? short_header : network_payload(frame, bytes, 14, big16(frame + 12));
    case 0: case 108: { /* BSD loopback: an address family of 4 bytes, of either byte order with 0 */
        if (bytes < 4) return short_header;
        uint32_t family = frame[0] | frame[3];
        p.begin = 4;
        if (frame[1] || frame[2] || (frame[0] && frame[3])) return p;
        if (family == 2) return ip_payload(frame, bytes, 4, 4);
        if (family == 10 || family == 24 || family == 28 || family == 30) return ip_payload(frame, bytes, 4, 6);
        return p;
    }
    case 12: case 14: case 101: return ip_payload(frame, bytes, 0, 0);
    case 228: return ip_payload(frame, bytes, 0, 4);
    case 229: return ip_payload(frame, bytes, 0, 6);
    case 113: return bytes < 16 ? short_header : network_payload(frame, bytes, 16, big16(frame + 14));
    case 276: return bytes < 20 ? short_header : network_payload(frame, bytes, 20, big16(frame));
    }
    return p;
}

#endif
