/* What runs in the kernel for each packet of a capture: two programs on a socket, with the user's filter between them.
 *
 *     entry ──▶ filter ──▶ keep ──▶ so many bytes into the ring
 *       │         └─ turned away: 0
 *       └ counts what is seen      └ counts what passed
 *
 * The filter is no part of this file: the agent translates libpcap's program (agent/ebpf/translate.py) and puts it into
 * its slot of `jumps`, so that another filter is one exchanged pointer and compiles nothing here. It ends a packet
 * (returns 0) or jumps on to `keep`. A load beyond the packet's end ends it inside the kernel, as in classic BPF;
 * therefore what was turned away is counted as seen - passed, not where it happens.
 *
 * Socket filters (BPF_PROG_TYPE_SOCKET_FILTER): their context is stable from Linux 4.6 on, whatever headers they were
 * compiled with. No loop, no pointer into a packet, no state but the maps of contract.h.
 */
#include "maps.h"

#define PACKET_IS_OUTGOING 4 /* PACKET_OUTGOING in linux/if_packet.h */

PROGRAM int entry(struct __sk_buff *packet) {
    struct settings *now = find_settings();
    struct counters *count = find_counters();
    if (!now || !count) return 0; /* can't be: both maps have their one entry for good */
    if (now->once_outgoing && packet->pkt_type == PACKET_IS_OUTGOING) return 0;
    count->seen++;
    go_to_filter(packet);
    return 0; /* no filter in its slot: nothing is let through unjudged */
}

PROGRAM int keep(struct __sk_buff *packet) {
    (void)packet;
    struct settings *now = find_settings();
    struct counters *count = find_counters();
    if (!now || !count) return 0;
    count->passed++;
    return now->kept_bytes;
}
