/* What the programs and the agent agree on: the layout of every map, and which program stands where.
 *
 * agent/ebpf/contract.py is its twin in Python; a test compiles a probe of sizes and offsets and compares. All numbers
 * are in host order; nothing here depends on the kernel's version.
 */
#ifndef WIREPOOL_CONTRACT_H
#define WIREPOOL_CONTRACT_H

/* The map `jumps` (BPF_MAP_TYPE_PROG_ARRAY): entry → filter → keep. */
enum { SLOT_FILTER = 0, SLOT_KEEP = 1, SLOTS = 2 };

/* The map `settings` (BPF_MAP_TYPE_ARRAY, one entry): what changes while packets flow, without another program. */
struct settings {
    __u32 kept_bytes;    /* of a packet that passed: the ring gets this much, the walk cuts it to the snaplen */
    __u32 once_outgoing; /* 1: a loopback interface, whose packets come by twice; those that leave don't count */
};

/* The map `counters` (BPF_MAP_TYPE_PERCPU_ARRAY, one entry): packets since the programs were loaded. */
struct counters {
    __u64 seen;   /* reached the socket, before any filter */
    __u64 passed; /* the filter let them through: seen - passed is what it turned away */
};

#endif
