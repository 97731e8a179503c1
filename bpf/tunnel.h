/* Where the packet inside a tunnel begins: GRE (RFC 2784, 2890; with Ethernet: NVGRE, RFC 7637), VXLAN (RFC 7348) and
 * Geneve (RFC 8926), over IPv4 or IPv6, behind tags. One level: what is inside an inner packet is not looked for.
 *
 * Fragments carry no tunnel that could be told, nor does what ends before its tunnel's header does.
 */
#ifndef WIREPOOL_TUNNEL_H
#define WIREPOOL_TUNNEL_H

enum { GRE = 47 };
enum { TYPE_ETHERNET = 0x6558 }; /* Transparent Ethernet Bridging */
enum { PORT_VXLAN = 4789, PORT_VXLAN_OF_LINUX = 8472, PORT_GENEVE = 6081 };
enum { UDP_BYTES = 8, VXLAN_BYTES = 8, GENEVE_BYTES = 8, GRE_BYTES = 4 };
enum { GRE_CHECKSUM = 0x8000, GRE_KEY = 0x2000, GRE_SEQUENCE = 0x1000, GRE_OTHER = 0x4007 /* routing, version */ };
enum { VXLAN_HAS_ID = 0x08 };

INLINE int slot_of(__u32 type) {
    if (type == TYPE_ETHERNET) return SLOT_INNER_ETHERNET;
    return type == TYPE_IP4 || type == TYPE_IP6 ? SLOT_INNER_IP : 0;
}

/* `at`: of the outer network header, then of the inner packet. The slot of the filter for its kind; 0: no tunnel. */
INLINE int inner_of(struct __sk_buff *packet, __u32 *at) {
    __u8 header[40];
    __u8 protocol;
    __u32 type = network_type(packet, at), fragment = 0;
    if (type == TYPE_IP4) {
        if (load(packet, *at, header, 20)) return 0;
        protocol = header[9];
        fragment = two_bytes(header + 6) & 0x3fff;
        *at += 4u * (header[0] & 15);
    } else if (type == TYPE_IP6) {
        if (load(packet, *at, header, 40)) return 0;
        protocol = header[6];
        *at += 40;
        if (skip_extensions(packet, at, &protocol, &fragment)) return 0;
    } else {
        return 0;
    }
    if (fragment) return 0;
    if (protocol == GRE) {
        if (load(packet, *at, header, GRE_BYTES)) return 0;
        __u32 flags = two_bytes(header);
        if (flags & GRE_OTHER) return 0;
        *at += GRE_BYTES + (flags & GRE_CHECKSUM ? 4 : 0) + (flags & GRE_KEY ? 4 : 0) + (flags & GRE_SEQUENCE ? 4 : 0);
        return slot_of(two_bytes(header + 2));
    }
    if (protocol != UDP || load(packet, *at, header, UDP_BYTES + GENEVE_BYTES)) return 0;
    __u32 port = two_bytes(header + 2);
    *at += UDP_BYTES;
    if (port == PORT_VXLAN || port == PORT_VXLAN_OF_LINUX) {
        *at += VXLAN_BYTES;
        return header[UDP_BYTES] & VXLAN_HAS_ID ? SLOT_INNER_ETHERNET : 0;
    }
    if (port != PORT_GENEVE || header[UDP_BYTES] & 0xc0 /* version */) return 0;
    *at += GENEVE_BYTES + 4u * (header[UDP_BYTES] & 0x3f);
    return slot_of(two_bytes(header + UDP_BYTES + 2));
}

#endif
