/* What runs in the kernel for each packet of a capture: two programs on a socket, with the user's filter between them.
 *
 *     entry ──▶ filter ──▶ keep ──▶ so many bytes into the ring
 *       │         └─ turned away: 0
 *       │                          └ counts what passed
 *       └ counts what is seen, and looks for a packet inside a tunnel if the filter is to judge that
 *
 * The filter is no part of this file: the agent translates libpcap's program (agent/ebpf/translate.py) and puts it into
 * its slot of `jumps`, so that another filter is one exchanged pointer and compiles nothing here. It ends a packet
 * (returns 0) or jumps on to `keep`. A load beyond the packet's end ends it inside the kernel, as in classic BPF;
 * therefore what was turned away is counted as seen - passed, not where it happens.
 *
 * Where nobody asks for more of `entry` than to count, sockets run the filter itself, which then counts what is seen first
 * (also translate.py) and spares a packet that it turns away two jumps and half the look-ups.
 *
 * A third one, `steer`, stands before them all: it chooses the ring whose socket they then run for.
 *
 * Socket filters (BPF_PROG_TYPE_SOCKET_FILTER): their context is stable from Linux 4.6 on, whatever headers they were
 * compiled with. No loop, no pointer into a packet, no state but the maps of contract.h.
 */
#include "maps.h"

#include "flow.h"
#include "steer.h"
#include "tunnel.h"
#include "flow_counters.h"

PROGRAM int entry(struct __sk_buff *packet) {
    struct settings *now = find_settings();
    struct counters *count = find_counters();
    if (!now || !count) return 0; /* can't be: both maps have their one entry for good */
    if (now->once_outgoing && packet->pkt_type == PACKET_IS_OUTGOING) return 0;
    count->seen++;
    if (now->count_flows) count_flow(packet, now, count);
    if (now->look_inside) {
        __u32 inner_at = now->network_at;
        int inside = inner_of(packet, &inner_at);
        packet->cb[INNER_AT] = inner_at;
        if (inside == SLOT_INNER_ETHERNET) go_to(packet, SLOT_INNER_ETHERNET);
        if (inside == SLOT_INNER_IP) go_to(packet, SLOT_INNER_IP);
    }
    go_to(packet, SLOT_FILTER);
    return 0; /* no filter in its slot: nothing is let through unjudged */
}

/* Which flows are kept: the upper half of the hash. Which ring a flow goes to (steer.h) follows from the lower. */
INLINE __u32 place_in_sample(const struct flow_key *key) { return flow_hash(key) >> 32; }

PROGRAM int keep(struct __sk_buff *packet) {
    struct settings *now = find_settings();
    struct counters *count = find_counters();
    if (!now || !count) return 0;
    count->passed++;
    __u64 cutoff_bytes = now->cutoff_bytes;
    __u32 one_flow_in = now->one_flow_in;
    struct flow_key key = {};
    if ((!cutoff_bytes && one_flow_in < 2) || !flow_again(packet, now->network_at, &key)) return now->kept_bytes;
    if (one_flow_in > 1 && place_in_sample(&key) % one_flow_in) {
        count->sampled_out++;
        return 0;
    }
    if (!cutoff_bytes) return now->kept_bytes;
    struct flow *flow = find_flow(&key);
    if (!flow) {
        struct flow fresh = {.bytes = packet->len};
        add_flow(&key, &fresh);
    } else if (flow->bytes >= cutoff_bytes) {
        count->cut_off++;
        return 0;
    } else {
        __sync_fetch_and_add(&flow->bytes, packet->len);
    }
    return now->kept_bytes;
}
