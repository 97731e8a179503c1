/* Which of a capture's rings a packet goes to: PACKET_FANOUT asks this program once per packet, before any filter.
 *
 * A flow stays in one ring, whatever its packets' direction. A packet to or from a priority address or port goes to the
 * ring behind those. What is no IP goes to the first.
 *
 * The kernel asks before it gives a received packet its link header back (fanout_demux_bpf in net/packet/af_packet.c):
 * the data of one that comes in begin at the network header, of one that goes out at the frame's own beginning.
 */
#ifndef WIREPOOL_STEER_H
#define WIREPOOL_STEER_H

#define PACKET_IS_OUTGOING 4 /* PACKET_OUTGOING in linux/if_packet.h */

INLINE int is_priority_address(const __u64 address[2], __u8 version) {
    struct network_key whole = {.bits = 128};
    if (version == 4) {
        whole.address[10] = whole.address[11] = 0xff;
        __builtin_memcpy(whole.address + 12, address, 4);
    } else {
        __builtin_memcpy(whole.address, address, 16);
    }
    return has_network(&whole);
}

INLINE int is_priority_port(const struct port_set *wanted, __u16 port_on_the_wire) {
    __u32 port = __builtin_bswap16(port_on_the_wire) & 0xffff;
    return wanted->bits[port >> 3] >> (port & 7) & 1;
}

INLINE int has_priority(const struct flow_key *key, __u32 rules) {
    if (rules & BY_PORT && (key->lower_port || key->upper_port)) {
        struct port_set *wanted = find_ports();
        if (wanted && (is_priority_port(wanted, key->lower_port) || is_priority_port(wanted, key->upper_port))) return 1;
    }
    if (!(rules & BY_NETWORK)) return 0;
    return is_priority_address(key->lower_address, key->version) || is_priority_address(key->upper_address, key->version);
}

PROGRAM int steer(struct __sk_buff *packet) {
    struct steering *now = find_steering();
    if (!now) return 0; /* can't be */
    __u32 rings = now->rings, rules = now->rules;
    if (rings < 2 && !rules) return 0;
    struct flow_key key = {};
    int in_flow;
    if (packet->pkt_type == PACKET_IS_OUTGOING) {
        in_flow = flow_of(packet, now->network_at, &key);
    } else {
        __u32 at = 0, type = __builtin_bswap16(packet->protocol) & 0xffff;
        type = behind_tags(packet, type, &at);
        in_flow = flow_at(packet, type, at, &key);
    }
    if (!in_flow) return 0;
    if (rules && has_priority(&key, rules)) return rings;
    return rings < 2 ? 0 : (__u32)flow_hash(&key) % rings;
}

#endif
