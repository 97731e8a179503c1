/* Which flow a packet belongs to: addresses, protocol and ports behind tags, options and extension headers.
 *
 * Packets that aren't IP, or end before they say, belong to none. Every fragment, the first too, is taken as one
 * without ports, so that the fragments of a datagram stay together.
 */
#ifndef WIREPOOL_FLOW_H
#define WIREPOOL_FLOW_H

enum { TAGS_WITHIN = 2, EXTENSIONS = 4 }; /* as many as are looked behind */
enum { TYPE_IP4 = 0x0800, TYPE_IP6 = 0x86dd, TYPE_TAG = 0x8100, TYPE_SERVICE_TAG = 0x88a8 };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, OPTIONS = 60 };
enum { TCP = 6, UDP = 17, DCCP = 33, SCTP = 132, UDP_LITE = 136 };

INLINE __u32 two_bytes(const __u8 *at) { return (__u32)at[0] << 8 | at[1]; }

/* The EtherType behind the tags, and `at` moved there; 0 when the frame ends before it. */
INLINE __u32 behind_tags(struct __sk_buff *packet, __u32 type, __u32 *at) {
    __u8 bytes[2];
#pragma unroll
    for (int tag = 0; tag < TAGS_WITHIN; tag++) {
        if (type != TYPE_TAG && type != TYPE_SERVICE_TAG) break;
        if (load(packet, *at + 2, bytes, 2)) return 0;
        *at += 4;
        type = two_bytes(bytes);
    }
    return type;
}

/* The same of a frame whose network header is said to begin `at`. */
INLINE __u32 network_type(struct __sk_buff *packet, __u32 *at) {
    __u8 bytes[2];
    if (!*at) { /* no link header: the version tells */
        if (load(packet, 0, bytes, 1)) return 0;
        return bytes[0] >> 4 == 4 ? TYPE_IP4 : bytes[0] >> 4 == 6 ? TYPE_IP6 : 0;
    }
    if (load(packet, *at - 2, bytes, 2)) return 0;
    return behind_tags(packet, two_bytes(bytes), at);
}

/* Behind IPv6 extension headers: `at` and `protocol` of what follows; `fragment` is not 0 in a fragment, behind whose
 * header nothing is skipped. Not 0: the packet ends before. */
INLINE int skip_extensions(struct __sk_buff *packet, __u32 *at, __u8 *protocol, __u32 *fragment) {
    __u8 header[4];
#pragma unroll
    for (int extension = 0; extension < EXTENSIONS; extension++) {
        if (*protocol != HOP_BY_HOP && *protocol != ROUTING && *protocol != OPTIONS && *protocol != FRAGMENT) break;
        if (load(packet, *at, header, 4)) return -1;
        if (*protocol == FRAGMENT) {
            *fragment |= two_bytes(header + 2) & 0xfff9;
            *at += 8;
        } else {
            *at += 8u * (header[1] + 1u);
        }
        *protocol = header[0];
        if (*fragment) break; /* what follows in a later fragment is no header */
    }
    return 0;
}

enum { NO_FLOW = 0, LOWER_END = 1, UPPER_END = 2 };

/* Fills `key`, which is all zeros before, by the header of this type at this place, and says which end sent the packet.
 * NO_FLOW: it belongs to none, and `key` may hold a part. */
INLINE int flow_at(struct __sk_buff *packet, __u32 type, __u32 at, struct flow_key *key) {
    __u32 fragment = 0;
    __u8 header[40];
    __u64 from[2] = {}, to[2] = {};
    __u8 protocol;
    if (type == TYPE_IP4) {
        if (load(packet, at, header, 20)) return 0;
        protocol = header[9];
        fragment = two_bytes(header + 6) & 0x3fff; /* more to come, or not the first */
        __builtin_memcpy(from, header + 12, 4);
        __builtin_memcpy(to, header + 16, 4);
        at += 4u * (header[0] & 15);
        key->version = 4;
    } else if (type == TYPE_IP6) {
        if (load(packet, at, header, 40)) return 0;
        protocol = header[6];
        __builtin_memcpy(from, header + 8, 16);
        __builtin_memcpy(to, header + 24, 16);
        at += 40;
        key->version = 6;
        if (skip_extensions(packet, &at, &protocol, &fragment)) return 0;
    } else {
        return 0;
    }
    __u16 ports[2] = {};
    int has_ports = protocol == TCP || protocol == UDP || protocol == SCTP || protocol == DCCP || protocol == UDP_LITE;
    if (has_ports && !fragment && load(packet, at, ports, 4)) return 0;
    int forward = from[0] != to[0] ? from[0] < to[0] : from[1] != to[1] ? from[1] < to[1] : ports[0] <= ports[1];
    key->lower_address[0] = forward ? from[0] : to[0];
    key->lower_address[1] = forward ? from[1] : to[1];
    key->upper_address[0] = forward ? to[0] : from[0];
    key->upper_address[1] = forward ? to[1] : from[1];
    key->lower_port = forward ? ports[0] : ports[1];
    key->upper_port = forward ? ports[1] : ports[0];
    key->protocol = protocol;
    return forward ? LOWER_END : UPPER_END;
}

/* The same of a frame whose network header is said to begin `at`. */
INLINE int flow_of(struct __sk_buff *packet, __u32 at, struct flow_key *key) {
    __u32 type = network_type(packet, &at);
    return flow_at(packet, type, at, key);
}

INLINE __u64 mixed(__u64 hash, __u64 word) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    return hash ^ hash >> 32;
}

/* A number that depends on addresses and ports alone: the same on every host and after a restart. */
INLINE __u64 flow_hash(const struct flow_key *key) {
    __u64 hash = mixed(mixed(0, key->lower_address[0]), key->lower_address[1]);
    hash = mixed(mixed(hash, key->upper_address[0]), key->upper_address[1]);
    __u64 ports_of = (__u64)key->lower_port << 32 | (__u64)key->upper_port << 16;
    return mixed(hash, ports_of | (__u64)key->protocol << 8 | key->version);
}

#endif
