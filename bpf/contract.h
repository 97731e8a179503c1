/* What the programs and the agent agree on: the layout of every map, and which program stands where.
 *
 * agent/ebpf/contract.py is its twin in Python; a test compiles a probe of sizes and offsets and compares. All numbers
 * are in host order; nothing here depends on the kernel's version.
 */
#ifndef WIREPOOL_CONTRACT_H
#define WIREPOOL_CONTRACT_H

/* The map `jumps` (BPF_MAP_TYPE_PROG_ARRAY): entry → filter → keep. The filter stands there once for packets as they
 * came, and, while look_inside is set, once for each kind of packet that a tunnel carries. */
enum { SLOT_FILTER = 0, SLOT_KEEP = 1, SLOT_INNER_ETHERNET = 2, SLOT_INNER_IP = 3, SLOTS = 4 };

/* What `entry` leaves in __sk_buff.cb, which outlives a jump: the offset of the packet inside a tunnel, and whether it has
 * found the packet's flow (flow_counters.h). */
enum { INNER_AT = 0, FLOW_MARK = 1 };

/* The map `settings` (BPF_MAP_TYPE_ARRAY, one entry): what changes while packets flow, without another program. */
struct settings {
    __u64 cutoff_bytes;  /* of each flow, packets are kept until it has had this many bytes; 0: all of them */
    __u32 kept_bytes;    /* of a packet that is kept: the ring gets this much, the walk cuts it to the snaplen */
    __u32 once_outgoing; /* 1: a loopback interface, whose packets come by twice; those that leave don't count */
    __u32 network_at;    /* where the network header begins: 14 with Ethernet, 0 without a link header */
    __u32 one_flow_in;   /* one flow in so many is kept; 0 or 1: every flow */
    __u32 look_inside;   /* 1: the filter judges the packet inside a tunnel, where there is one */
    __u32 count_flows;   /* 1: every packet that is seen is counted in `flow_counters` */
};

/* The map `counters` (BPF_MAP_TYPE_PERCPU_ARRAY, one entry): packets since the programs were loaded. */
struct counters {
    __u64 seen;         /* reached the socket, before any filter */
    __u64 passed;       /* the filter let them through: seen - passed is what it turned away */
    __u64 sampled_out;  /* passed, but their flow is none of the sample */
    __u64 cut_off;      /* passed, but their flow has had its bytes */
    __u64 counted;      /* in `flow_counters`; with the next: all that were seen while count_flows was set */
    __u64 unattributed; /* seen while count_flows was set, but of no flow, or the map had no room */
};

/* The map `flows` (BPF_MAP_TYPE_LRU_HASH; BPF_MAP_TYPE_HASH before Linux 4.10), used while cutoff_bytes is set. Both
 * directions are one flow: the end whose address and port are the lower numbers, as they lie in memory, comes first. */
enum { FLOWS = 32768 };

struct flow_key {
    __u64 lower_address[2], upper_address[2]; /* IPv4: in the first four bytes, the rest 0 */
    __u16 lower_port, upper_port;             /* as on the wire; 0 without ports, and in every fragment */
    __u8 protocol, version;                   /* 4 or 6 */
    __u16 unused;
};

struct flow {
    __u64 bytes; /* of the frames kept, as long as they were on the wire but for a tag beside them */
};

/* The map `flow_counters` (of the same type as `flows`), used while count_flows is set: the same keys, cumulative since the
 * flow is in the map. A flow that was evicted and comes back begins anew, with another first_ns. */
enum { FLOW_COUNTERS = 32768 };

struct one_way {
    __u64 packets, bytes; /* as long as they were on the wire, GRO's larger frames as one */
};

struct flow_counter {
    struct one_way from_lower, from_upper; /* by the end that sent them */
    __u64 first_ns, last_ns;               /* CLOCK_MONOTONIC */
};

/* The map `parsed` (BPF_MAP_TYPE_PERCPU_ARRAY, one entry): the flow_key that `entry` leaves for `keep`. */

/* The map `steering` (BPF_MAP_TYPE_ARRAY, one entry): to which of a capture's rings a packet goes. */
enum { BY_NETWORK = 1, BY_PORT = 2 };

struct steering {
    __u32 rings;      /* flows are spread over so many; the one behind them is for priority */
    __u32 rules;      /* BY_NETWORK, BY_PORT: which of the two maps below hold something; 0: there is no such ring */
    __u32 network_at; /* as in struct settings */
    __u32 unused;
};

/* The map `priority_networks` (BPF_MAP_TYPE_LPM_TRIE): a packet to or from one of these has priority. The value is any. */
enum { PRIORITY_NETWORKS = 10000 };

struct network_key {
    __u32 bits;       /* of the address; 96 more for IPv4 */
    __u8 address[16]; /* IPv4 mapped, ::ffff:a.b.c.d */
};

/* The map `priority_ports` (BPF_MAP_TYPE_ARRAY, one entry): a packet to or from one of these has priority. */
struct port_set {
    __u8 bits[8192]; /* bit (port & 7) of byte (port >> 3) */
};

#endif
