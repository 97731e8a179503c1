/* Which flow a packet belongs to, and what is left of it elsewhere on its way. Plain C without Python.
 *
 * Flow: Community ID version 1 (github.com/corelight/community-id-spec), seed 0. Digests are remembered by flow, so that
 * SHA-1 runs once for each flow in a batch; who makes flows collide in the memory makes it run for each packet, no more.
 */
#ifndef WIREPOOL_IDENTITY_H
#define WIREPOOL_IDENTITY_H

#include "_digest.h"
#include "_walk.h"

enum { REMEMBERED_FLOWS = 1024 }; /* a power of two; 88 KB */

typedef struct {
    uint8_t message[40]; /* what SHA-1 is made of */
    uint32_t bytes;      /* of it; 0: nothing remembered here */
    CommunityId id;
    uint64_t hash;
} Flow;

/* The type that answers an ICMP type; -1: none does, and then the code takes its place. */
static int icmp_answer(int protocol, int type) {
    static const uint8_t pairs[][2] = {{0, 8}, {9, 10}, {13, 14}, {15, 16}, {17, 18}};
    static const uint8_t pairs6[][2] = {{128, 129}, {130, 131}, {133, 134}, {135, 136}, {139, 140}, {144, 145}};
    const uint8_t(*among)[2] = protocol == ICMP ? pairs : pairs6;
    unsigned count = protocol == ICMP ? sizeof pairs / 2 : sizeof pairs6 / 2;
    for (unsigned i = 0; i < count; i++)
        if (among[i][0] == type || among[i][1] == type) return among[i][0] == type ? among[i][1] : among[i][0];
    return -1;
}

/* Seed, addresses, protocol, padding and what stands for ports, the smaller end first: the bytes of `message`. */
static uint32_t flow_message(Observation *o, uint8_t message[40]) {
    int has_ports = o->protocol == TCP || o->protocol == UDP || o->protocol == SCTP, one_way = 0;
    uint32_t width = o->ip_version == 4 ? 4 : 16, from = o->source_port, to = o->destination_port;
    const uint8_t *a = o->source_address.bytes + 16 - width, *b = o->destination_address.bytes + 16 - width;
    if (o->layers & HAS_ICMP) {
        int answer = icmp_answer(o->protocol, o->icmp_type);
        has_ports = 1, one_way = answer < 0;
        from = o->icmp_type, to = one_way ? o->icmp_code : (uint32_t)answer;
    }
    int order = memcmp(a, b, width);
    if (!has_ports) from = to = 0;
    o->flow_reversed = !one_way && (order > 0 || (order == 0 && from > to));
    if (o->flow_reversed) {
        const uint8_t *lower = b;
        uint32_t port = to;
        b = a, a = lower, to = from, from = port;
    }
    uint8_t *m = message;
    *m++ = 0, *m++ = 0;
    memcpy(m, a, width), memcpy(m + width, b, width), m += 2 * width;
    *m++ = o->protocol, *m++ = 0;
    if (has_ports)
        *m++ = (uint8_t)(from >> 8), *m++ = (uint8_t)from, *m++ = (uint8_t)(to >> 8), *m++ = (uint8_t)to;
    return (uint32_t)(m - message);
}

static void name_flow(Observation *o, HashKey key, Flow *flows) {
    uint8_t message[40], digest[SHA1_BYTES];
    if (!(o->layers & HAS_FLOW)) return;
    uint32_t bytes = flow_message(o, message);
    Flow *flow = flows + (siphash13(key, message, bytes) & (REMEMBERED_FLOWS - 1));
    if (flow->bytes != bytes || memcmp(flow->message, message, bytes)) {
        sha1_short(message, bytes, digest);
        memcpy(flow->message, message, bytes), flow->bytes = bytes;
        flow->id.text[0] = '1', flow->id.text[1] = ':';
        base64_digest(digest, flow->id.text + 2);
        flow->hash = 0;
        for (int i = 0; i < 8; i++) flow->hash = flow->hash << 8 | digest[i];
    }
    o->community_id = flow->id, o->flow_hash = flow->hash;
}

/* ---- the same packet elsewhere ---------------------------------------------------------------------------------- */

static uint64_t hashed(HashKey key, const uint64_t *words, unsigned count) {
    uint64_t hash = siphash13_words(key, words, count);
    return hash ? hash : 1; /* 0 says that there is none */
}

/* hop_hash: what a router leaves as it is. nat_hash: what address and port translation leave as well. */
static void fingerprint(Observation *o, const uint8_t *frame, uint32_t captured, HashKey key) {
    if (o->problem && o->problem <= BAD_LINK_TYPE) return; /* a header isn't there as a whole, or not known */
    uint32_t from = o->payload_offset, to = from + o->payload_captured_bytes; /* no TCP options: routers edit them */
    if (o->layers & HAS_ARP) to = from, from = o->network_offset; /* all of it is header; padding isn't */
    if (to > captured || from > to) return;
    uint64_t content = siphash13(key, frame + from, to - from);
    enum { OF_BOTH = 5, OF_HOP = 11 };
    uint64_t words[OF_HOP] = {
        o->protocol | (uint64_t)o->ip_version << 8 | (uint64_t)o->icmp_type << 16 | (uint64_t)o->icmp_code << 24 |
            (uint64_t)o->icmp_sequence << 32,
        o->tcp_sequence | (uint64_t)o->tcp_acknowledgement << 32,
        o->tcp_flags | (uint64_t)o->tcp_window << 16 | (uint64_t)o->payload_bytes << 32,
        o->payload_captured_bytes,
        content,
        (o->layers & HAS_IP ? o->ip_id : o->ethertype) | (uint64_t)o->fragment_offset_bytes << 32 |
            (uint64_t)o->more_fragments << 48,
        o->source_port | (uint64_t)o->destination_port << 16 | (uint64_t)o->icmp_id << 32,
        word64(o->source_address.bytes), word64(o->source_address.bytes + 8),
        word64(o->destination_address.bytes), word64(o->destination_address.bytes + 8),
    };
    o->hop_hash = hashed(key, words, OF_HOP);
    /* A quoted packet is translated too, a datagram is put together again, and without content there is nothing to tell
     * one packet from the next. */
    int quotes = o->layers & HAS_ICMP && (o->protocol == ICMP ? o->icmp_type == 3 || o->icmp_type == 4 ||
                 o->icmp_type == 5 || o->icmp_type == 11 || o->icmp_type == 12 : o->icmp_type < 128);
    if (!(o->layers & HAS_FLOW) || o->layers & IS_FRAGMENT || quotes) return;
    if (!(o->layers & (HAS_TCP | HAS_ICMP)) && !o->payload_captured_bytes) return;
    o->nat_hash = hashed(key, words, OF_BOTH);
}

#endif
