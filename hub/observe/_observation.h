/* What is told of one packet: a struct here, a numpy column each outside. Plain C without Python.
 *
 * hub/observe/observations.py says what each column means, with its unit; an import checks that both name the same.
 * Widest first, so that columns laid end to end are aligned.
 */
#ifndef WIREPOOL_OBSERVATION_H
#define WIREPOOL_OBSERVATION_H

#include <stdint.h>
#include <string.h>

typedef struct { uint8_t bytes[16]; } Address;
typedef struct { uint8_t bytes[6]; } Mac;
typedef struct { char text[30]; } CommunityId;

/* X(type in C, name, numpy's type) */
#define COLUMNS(X)                                \
    X(uint64_t, packet_offset, "u8")              \
    X(uint64_t, hop_hash, "u8")                   \
    X(uint64_t, nat_hash, "u8")                   \
    X(uint64_t, flow_hash, "u8")                  \
    X(uint32_t, network_offset, "u4")             \
    X(uint32_t, payload_offset, "u4")             \
    X(uint32_t, payload_bytes, "u4")              \
    X(uint32_t, payload_captured_bytes, "u4")     \
    X(uint32_t, ip_total_bytes, "u4")             \
    X(uint32_t, ip_id, "u4")                      \
    X(uint32_t, tcp_sequence, "u4")               \
    X(uint32_t, tcp_sequence_end, "u4")           \
    X(uint32_t, tcp_acknowledgement, "u4")        \
    X(uint32_t, tunnel_id, "u4")                  \
    X(uint16_t, layers, "u2")                     \
    X(uint16_t, ethertype, "u2")                  \
    X(uint16_t, vlan_outer, "u2")                 \
    X(uint16_t, vlan_inner, "u2")                 \
    X(uint16_t, arp_operation, "u2")              \
    X(uint16_t, fragment_offset_bytes, "u2")      \
    X(uint16_t, source_port, "u2")                \
    X(uint16_t, destination_port, "u2")           \
    X(uint16_t, tcp_flags, "u2")                  \
    X(uint16_t, tcp_window, "u2")                 \
    X(uint16_t, icmp_id, "u2")                    \
    X(uint16_t, icmp_sequence, "u2")              \
    X(uint16_t, outer_source_port, "u2")          \
    X(uint16_t, outer_destination_port, "u2")     \
    X(uint8_t, problem, "u1")                     \
    X(uint8_t, vlan_tags, "u1")                   \
    X(uint8_t, ip_version, "u1")                  \
    X(uint8_t, protocol, "u1")                    \
    X(uint8_t, ttl, "u1")                         \
    X(uint8_t, dscp, "u1")                        \
    X(uint8_t, ecn, "u1")                         \
    X(uint8_t, more_fragments, "?")               \
    X(uint8_t, icmp_type, "u1")                   \
    X(uint8_t, icmp_code, "u1")                   \
    X(uint8_t, flow_reversed, "?")                \
    X(uint8_t, application, "u1")                 \
    X(uint8_t, tunnels, "u1")                     \
    X(uint8_t, tunnel_kind, "u1")                 \
    X(uint8_t, outer_version, "u1")               \
    X(uint8_t, outer_protocol, "u1")              \
    X(uint8_t, outer_ttl, "u1")                   \
    X(Mac, source_mac, "(6,)u1")                  \
    X(Mac, destination_mac, "(6,)u1")             \
    X(Address, source_address, "(16,)u1")         \
    X(Address, destination_address, "(16,)u1")    \
    X(Address, outer_source_address, "(16,)u1")   \
    X(Address, outer_destination_address, "(16,)u1") \
    X(CommunityId, community_id, "S30")

#define FIELD(type, name, numpy) type name;
typedef struct { COLUMNS(FIELD) } Observation;
#undef FIELD

/* The enumerations below are those of hub/observe/observations.py, which a test compares by what packets give. */
enum { /* layers */
    HAS_ETHERNET = 1 << 0, HAS_ARP = 1 << 1, HAS_IP = 1 << 2, HAS_EXTENSIONS = 1 << 3, IS_FRAGMENT = 1 << 4,
    HAS_PORTS = 1 << 5, HAS_TCP = 1 << 6, HAS_UDP = 1 << 7, HAS_ICMP = 1 << 8, HAS_FLOW = 1 << 9,
    HAS_MPLS = 1 << 10, HAS_PPPOE = 1 << 11
};
enum { /* problem: the capture cut the header off; + SHORT: the packet itself ends within it */
    IN_LINK = 1, IN_TAG, IN_ARP, IN_IP, IN_EXTENSION, IN_TRANSPORT, IN_TUNNEL, SHORT = 16,
    BAD_LINK_TYPE = 32, BAD_TAGS, BAD_IP_VERSION, BAD_IP_HEADER_LENGTH, BAD_IP_TOTAL_LENGTH, BAD_EXTENSION,
    BAD_TCP_HEADER_LENGTH, BAD_UDP_LENGTH, BAD_TUNNELS
};
enum { TUNNEL_GRE = 1, TUNNEL_VXLAN, TUNNEL_GENEVE, TUNNEL_IP, TUNNEL_ERSPAN };
enum { APPLICATION_DNS = 1, APPLICATION_TLS_HELLO, APPLICATION_HTTP_REQUEST };

#endif
