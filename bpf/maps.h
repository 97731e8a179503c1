/* The maps, in the two dialects that the one source is compiled in: BCC's (which rewrites calls on maps) and libbpf's
 * (which reads them from the object's type information). What differs is in this file alone.
 */
#ifndef WIREPOOL_MAPS_H
#define WIREPOOL_MAPS_H

#define INLINE static inline __attribute__((always_inline))

#ifdef WIREPOOL_BCC /* compiled by BCC, which has included linux/bpf.h and its helpers */

#include "contract.h"

BPF_PROG_ARRAY(jumps, SLOTS);
BPF_ARRAY(settings, struct settings, 1);
BPF_PERCPU_ARRAY(counters, struct counters, 1);
BPF_PERCPU_ARRAY(parsed, struct flow_key, 1);
#ifdef WIREPOOL_PLAIN_HASH /* before Linux 4.10: a full map takes no other flow */
BPF_TABLE("hash", struct flow_key, struct flow, flows, FLOWS);
BPF_TABLE("hash", struct flow_key, struct flow_counter, flow_counters, FLOW_COUNTERS);
#else
BPF_TABLE("lru_hash", struct flow_key, struct flow, flows, FLOWS);
BPF_TABLE("lru_hash", struct flow_key, struct flow_counter, flow_counters, FLOW_COUNTERS);
#endif
BPF_ARRAY(steering, struct steering, 1);
BPF_LPM_TRIE(priority_networks, struct network_key, __u32, PRIORITY_NETWORKS);
BPF_ARRAY(priority_ports, struct port_set, 1);

#define PROGRAM

INLINE struct settings *find_settings(void) {
    int first = 0;
    return settings.lookup(&first);
}

INLINE struct counters *find_counters(void) {
    int first = 0;
    return counters.lookup(&first);
}

INLINE struct flow *find_flow(struct flow_key *key) { return flows.lookup(key); }

INLINE void add_flow(struct flow_key *key, struct flow *flow) { flows.update(key, flow); }

INLINE struct steering *find_steering(void) {
    int first = 0;
    return steering.lookup(&first);
}

INLINE int has_network(struct network_key *address) { return priority_networks.lookup(address) != 0; }

INLINE struct port_set *find_ports(void) {
    int first = 0;
    return priority_ports.lookup(&first);
}

INLINE void go_to(struct __sk_buff *packet, __u32 slot) { jumps.call(packet, slot); }

INLINE struct flow_counter *find_counter(struct flow_key *key) { return flow_counters.lookup(key); }

/* 0: it wasn't there and is now. */
INLINE int add_counter(struct flow_key *key, struct flow_counter *counter) { return flow_counters.insert(key, counter); }

INLINE struct flow_key *find_parsed(void) {
    int first = 0;
    return parsed.lookup(&first);
}

INLINE __u64 time_ns(void) { return bpf_ktime_get_ns(); }

INLINE int load(struct __sk_buff *packet, __u32 at, void *to, __u32 bytes) {
    return bpf_skb_load_bytes(packet, at, to, bytes);
}

#else /* compiled ahead of time: clang -O2 -g -target bpf */

#include <linux/bpf.h>

#include "contract.h"

#define SECTION(name) __attribute__((section(name), used))
#define PROGRAM SECTION("socket") /* as libbpf wants a socket filter to be called */

/* linux/bpf.h numbers the kernel's helpers: enum bpf_func_id. */
static void *(*map_lookup)(const void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*tail_call)(void *context, const void *map, __u32 slot) = (void *)BPF_FUNC_tail_call;

static long (*load_bytes)(const void *packet, __u32 at, void *to, __u32 bytes) = (void *)BPF_FUNC_skb_load_bytes;
static __u64 (*time_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*map_update)(const void *map, const void *key, const void *value, __u64 flags) =
    (void *)BPF_FUNC_map_update_elem;

/* libbpf takes type and size of a map from the types of these pointers' targets. */
#define MAP(name, kind, key_type, value_type, entries)                                                                 \
    struct {                                                                                                           \
        int (*type)[kind];                                                                                             \
        key_type *key;                                                                                                 \
        value_type *value;                                                                                             \
        int (*max_entries)[entries];                                                                                   \
    } name SECTION(".maps")

MAP(jumps, BPF_MAP_TYPE_PROG_ARRAY, __u32, __u32, SLOTS);
MAP(settings, BPF_MAP_TYPE_ARRAY, __u32, struct settings, 1);
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counters, 1);
MAP(parsed, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct flow_key, 1);
MAP(flows, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, FLOWS); /* loader.py has the type of these two changed */
MAP(flow_counters, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow_counter, FLOW_COUNTERS);
MAP(steering, BPF_MAP_TYPE_ARRAY, __u32, struct steering, 1);
MAP(priority_ports, BPF_MAP_TYPE_ARRAY, __u32, struct port_set, 1);

struct {
    int (*type)[BPF_MAP_TYPE_LPM_TRIE];
    struct network_key *key;
    __u32 *value;
    int (*max_entries)[PRIORITY_NETWORKS];
    int (*map_flags)[BPF_F_NO_PREALLOC];
} priority_networks SECTION(".maps");

char licence_text[] SECTION("license") = "GPL";

INLINE struct settings *find_settings(void) {
    __u32 first = 0;
    return map_lookup(&settings, &first);
}

INLINE struct counters *find_counters(void) {
    __u32 first = 0;
    return map_lookup(&counters, &first);
}

INLINE struct flow *find_flow(struct flow_key *key) { return map_lookup(&flows, key); }

INLINE void add_flow(struct flow_key *key, struct flow *flow) { map_update(&flows, key, flow, BPF_ANY); }

INLINE struct steering *find_steering(void) {
    __u32 first = 0;
    return map_lookup(&steering, &first);
}

INLINE int has_network(struct network_key *address) { return map_lookup(&priority_networks, address) != 0; }

INLINE struct port_set *find_ports(void) {
    __u32 first = 0;
    return map_lookup(&priority_ports, &first);
}

INLINE void go_to(struct __sk_buff *packet, __u32 slot) { tail_call(packet, &jumps, slot); }

INLINE struct flow_counter *find_counter(struct flow_key *key) { return map_lookup(&flow_counters, key); }

INLINE int add_counter(struct flow_key *key, struct flow_counter *counter) {
    return map_update(&flow_counters, key, counter, BPF_NOEXIST) != 0;
}

INLINE struct flow_key *find_parsed(void) {
    __u32 first = 0;
    return map_lookup(&parsed, &first);
}

INLINE int load(struct __sk_buff *packet, __u32 at, void *to, __u32 bytes) {
    return load_bytes(packet, at, to, bytes);
}

#endif
#endif
