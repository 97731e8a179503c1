/* Packets and bytes of every flow that is seen, whatever filter, sample and cut-off make of it afterwards.
 *
 * The counters only grow, and the agent reads them without taking them out: a program that had looked one up would add
 * to what was just deleted, and the packet would be lost. Nothing is lost on the way in either: of two processors that
 * meet a new flow at once, the second one's insertion fails, and it adds to the first one's.
 */
#ifndef WIREPOOL_FLOW_COUNTERS_H
#define WIREPOOL_FLOW_COUNTERS_H

enum { TAG_BYTES = 4, NOT_LOOKED = 0, OF_A_FLOW = 1, OF_NO_FLOW = 2 };

/* Of two branches that differ in a place alone the compiler makes one with a computed place, and that the verifier refuses
 * a loader without CAP_PERFMON: here and below they are kept from it. */
INLINE void add_to(struct flow_counter *counter, int sent_by, __u64 bytes, __u64 now_ns) {
    if (sent_by == LOWER_END) {
        __sync_fetch_and_add(&counter->from_lower.packets, 1);
        __sync_fetch_and_add(&counter->from_lower.bytes, bytes);
        asm volatile("" ::: "memory"); /* nothing is merged across it */
    } else {
        __sync_fetch_and_add(&counter->from_upper.packets, 1);
        __sync_fetch_and_add(&counter->from_upper.bytes, bytes);
        asm volatile("" ::: "memory");
    }
    counter->last_ns = now_ns;
}

/* Whether the map took the packet. */
INLINE int counted_in_map(struct flow_key *key, int sent_by, __u64 bytes) {
    __u64 now_ns = time_ns();
    struct flow_counter *counter = find_counter(key);
    if (!counter) {
        struct flow_counter fresh = {.first_ns = now_ns, .last_ns = now_ns};
        if (sent_by == LOWER_END) {
            fresh.from_lower.packets = 1;
            fresh.from_lower.bytes = bytes;
        } else {
            fresh.from_upper.packets = 1;
            fresh.from_upper.bytes = bytes;
        }
        if (!add_counter(key, &fresh)) return 1;
        counter = find_counter(key); /* another processor was first, or the map is full */
        if (!counter) return 0;
    }
    add_to(counter, sent_by, bytes, now_ns);
    return 1;
}

/* What `entry` does with a packet while flows are counted. The flow is left for `keep` where that asks for it as well:
 * a mark in the packet says so, which the kernel clears before `entry` begins. */
INLINE void count_flow(struct __sk_buff *packet, const struct settings *now, struct counters *count) {
    struct flow_key key = {};
    int sent_by = flow_of(packet, now->network_at, &key);
    __u64 bytes = packet->len + (packet->vlan_present ? TAG_BYTES : 0); /* as long as it was on the wire */
    int taken = sent_by && counted_in_map(&key, sent_by, bytes);
    count->counted += taken;
    count->unattributed += !taken;
    if (!now->cutoff_bytes && now->one_flow_in < 2) return;
    struct flow_key *left = find_parsed();
    if (!left) return;
    *left = key;
    packet->cb[FLOW_MARK] = sent_by ? OF_A_FLOW : OF_NO_FLOW;
}

/* The flow of a packet in `keep`, looked for once: 0, it belongs to none. */
INLINE int flow_again(struct __sk_buff *packet, __u32 network_at, struct flow_key *key) {
    __u32 mark = packet->cb[FLOW_MARK];
    if (mark == NOT_LOOKED) return flow_of(packet, network_at, key);
    struct flow_key *left = find_parsed();
    if (mark == OF_NO_FLOW || !left) return 0;
    *key = *left;
    return LOWER_END;
}

#endif
