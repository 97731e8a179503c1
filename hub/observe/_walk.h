/* From a frame's first byte to its payload. Plain C without Python.
 *
 * Rule: nothing is believed that contradicts what is around it: the first contradiction is named in `problem` and what
 * was known before stays. Tunnels are followed: the columns describe the innermost IP or ARP header that could be read,
 * the outermost is kept beside. Loops and recursion are bounded by the constants of the first enumeration.
 * Sources: IEEE 802.3 and 802.1Q, RFC 826 (ARP), 791 (IPv4), 8200 (IPv6), 4302 (AH), 9293 (TCP), 768 (UDP), 3828
 * (UDP-Lite), 9260 (SCTP), 4340 (DCCP), 792 and 4443 (ICMP), 2784 and 2890 (GRE), draft-foschiano-erspan, 7348
 * (VXLAN), 8926 (Geneve), 2003 and 4213 (IP in IP), 3032 (MPLS), 2516 (PPPoE); link types:
 * www.tcpdump.org/linktypes.html.
 */
#ifndef WIREPOOL_WALK_H
#define WIREPOOL_WALK_H

#include "_reading.h"

enum { MOST_TAGS = 8, MOST_EXTENSIONS = 12, MOST_TUNNELS = 4, MOST_LABELS = 16 };
enum { TYPE_IP4 = 0x0800, TYPE_ARP = 0x0806, TYPE_BRIDGED = 0x6558, TYPE_RARP = 0x8035, TYPE_IP6 = 0x86dd,
       TYPE_ERSPAN = 0x88be, TYPE_ERSPAN3 = 0x22eb };
enum { FIRST_ETHERTYPE = 0x0600 }; /* below it the field is a length (IEEE 802.3, 3.2.6) */
enum { ICMP = 1, IP_IN_IP = 4, TCP = 6, UDP = 17, DCCP = 33, IP6_IN_IP = 41, FRAGMENT = 44, GRE = 47, AH = 51, ICMP6 = 58,
       NO_NEXT_HEADER = 59, SCTP = 132, UDP_LITE = 136 };
enum { PORT_VXLAN = 4789, PORT_VXLAN_LINUX = 8472, PORT_GENEVE = 6081 };

static Address mapped(const uint8_t *ip4) { /* ::ffff:a.b.c.d, RFC 4291, 2.5.5.2 */
    Address a = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ip4[0], ip4[1], ip4[2], ip4[3]}};
    return a;
}

/* A readable IP or ARP header begins: one around it becomes the outer one, and its fields are this one's from now on. */
static void begin(const Walk *w, uint32_t at) {
    Observation *o = w->seen;
    o->network_offset = at;
    if (!o->ip_version) return; /* the first */
    Observation inner = {0};
    inner.packet_offset = o->packet_offset, inner.problem = o->problem;
    inner.ethertype = o->ethertype, inner.vlan_tags = o->vlan_tags;
    inner.vlan_outer = o->vlan_outer, inner.vlan_inner = o->vlan_inner;
    inner.source_mac = o->source_mac, inner.destination_mac = o->destination_mac;
    inner.layers = o->layers & (HAS_ETHERNET | HAS_MPLS | HAS_PPPOE);
    inner.tunnels = o->tunnels, inner.tunnel_kind = o->tunnel_kind, inner.tunnel_id = o->tunnel_id;
    int first = o->outer_version == 0;
    inner.outer_version = first ? o->ip_version : o->outer_version;
    inner.outer_protocol = first ? o->protocol : o->outer_protocol;
    inner.outer_ttl = first ? o->ttl : o->outer_ttl;
    inner.outer_source_port = first ? o->source_port : o->outer_source_port;
    inner.outer_destination_port = first ? o->destination_port : o->outer_destination_port;
    inner.outer_source_address = first ? o->source_address : o->outer_source_address;
    inner.outer_destination_address = first ? o->destination_address : o->outer_destination_address;
    inner.network_offset = at;
    *o = inner;
}

static void network(Walk *w, uint32_t at, uint32_t type);
static void ip4(Walk *w, uint32_t at);
static void ip6(Walk *w, uint32_t at);
static void ethernet(Walk *w, uint32_t at);

/* Whether one more tunnel may be followed. Kind and id are those of the outermost. */
static int enter(const Walk *w, int kind, uint32_t id) {
    Observation *o = w->seen;
    if (o->tunnels == MOST_TUNNELS) {
        note(w, BAD_TUNNELS);
        return 0;
    }
    if (!o->tunnels++) o->tunnel_kind = (uint8_t)kind, o->tunnel_id = id;
    return 1;
}

/* What a tunnel's header announces by its EtherType. */
static void announced(Walk *w, uint32_t at, uint32_t type) {
    if (type == TYPE_BRIDGED) ethernet(w, at);
    else if (type >= FIRST_ETHERTYPE) network(w, at, type);
    else other(w, at);
}

/* A switch's mirror port, far away: draft-foschiano-erspan. Type I has no header of its own, II 8 bytes, III 12 or 20. */
static void erspan(Walk *w, uint32_t at, uint32_t type, int numbered) {
    uint32_t size = type == TYPE_ERSPAN3 ? 12 : numbered ? 8 : 0;
    if (lacks(w, at, size, IN_TUNNEL)) return;
    const uint8_t *p = w->frame + at;
    if (size == 12 && p[11] & 1) size += 8; /* an optional subheader */
    if (lacks(w, at, size, IN_TUNNEL)) return;
    if (enter(w, TUNNEL_ERSPAN, size ? be16(p + 2) & 0x3ff : 0)) ethernet(w, at + size);
}

static void gre(Walk *w, uint32_t at) {
    payload(w, at);
    if (lacks(w, at, 4, IN_TUNNEL)) return;
    const uint8_t *p = w->frame + at;
    uint32_t flags = be16(p), type = be16(p + 2);
    if (flags & 0x4007) return; /* RFC 1701's source routes, or another version: PPTP's (RFC 2637) */
    uint32_t key_at = flags & 0x8000 ? 8 : 4, size = key_at + (flags & 0x2000 ? 4 : 0) + (flags & 0x1000 ? 4 : 0);
    if (lacks(w, at, size, IN_TUNNEL)) return;
    if (type == TYPE_ERSPAN || type == TYPE_ERSPAN3) erspan(w, at + size, type, flags >> 12 & 1);
    else if (enter(w, TUNNEL_GRE, flags & 0x2000 ? be32(p + key_at) : 0)) announced(w, at + size, type);
}

/* Tunnels in UDP have nothing but a port to tell them, which a client may have by chance: what isn't exactly such a
 * header is the datagram's payload. 1: it is one. A header that the capture cut leaves it open, which is a problem.
 */
static int may_be_tunnel(const Walk *w, uint32_t at, uint32_t size) {
    return w->end >= at && w->end - at >= size && !lacks(w, at, size, IN_TUNNEL);
}

static int vxlan(Walk *w, uint32_t at) {
    if (!may_be_tunnel(w, at, 8)) return 0;
    const uint8_t *p = w->frame + at;
    int policy = p[0] == 0x88; /* with a group's number where zeros are otherwise: draft-smith-vxlan-group-policy */
    if (p[7] || !(policy || (p[0] == 8 && !p[1] && !p[2] && !p[3]))) return 0;
    if (enter(w, TUNNEL_VXLAN, be32(p + 4) >> 8)) ethernet(w, at + 8);
    return 1;
}

static int geneve(Walk *w, uint32_t at) {
    if (!may_be_tunnel(w, at, 8)) return 0;
    const uint8_t *p = w->frame + at;
    uint32_t size = 8 + 4u * (p[0] & 63), type = be16(p + 2);
    if (p[0] >> 6 || p[1] & 63 || p[7] || (type != TYPE_BRIDGED && type != TYPE_IP4 && type != TYPE_IP6)) return 0;
    if (!may_be_tunnel(w, at, size)) return 0;
    if (enter(w, TUNNEL_GENEVE, be32(p + 4) >> 8)) announced(w, at + size, type);
    return 1;
}

/* Ports of the protocols that begin with them: 1 when they are there. */
static int ports(const Walk *w, uint32_t at, uint32_t header) {
    Observation *o = w->seen;
    int whole = !lacks(w, at, header, IN_TRANSPORT);
    uint32_t there = least(w->captured, w->end);
    no_payload(w, at);
    if (at > there || there - at < 4) return 0;
    o->source_port = (uint16_t)be16(w->frame + at), o->destination_port = (uint16_t)be16(w->frame + at + 2);
    o->layers |= HAS_PORTS | HAS_FLOW;
    return whole;
}

static int starts(const Walk *w, uint32_t at, const char *text) {
    size_t size = strlen(text);
    return w->seen->payload_captured_bytes >= size && !memcmp(w->frame + at, text, size);
}

static int is_name_service(uint32_t port) { return port == 53 || port == 5353 || port == 5355; }

/* Payload worth reading further: by port or by its first bytes. */
static void application(const Walk *w) {
    static const char *const methods[] = {"GET ", "POST ", "HEAD ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "CONNECT ",
                                          "TRACE "};
    Observation *o = w->seen;
    uint32_t at = o->payload_offset;
    if (is_name_service(o->source_port) || is_name_service(o->destination_port)) {
        if (o->payload_captured_bytes) o->application = APPLICATION_DNS;
    } else if (o->protocol == TCP && o->payload_captured_bytes >= 6) {
        const uint8_t *p = w->frame + at;
        if (p[0] == 22 && p[1] == 3 && p[5] == 1) o->application = APPLICATION_TLS_HELLO;
        if (p[0] < 'A' || p[0] > 'Z') return;
        for (unsigned i = 0; i < sizeof methods / sizeof *methods; i++)
            if (starts(w, at, methods[i])) o->application = APPLICATION_HTTP_REQUEST;
    }
}

static void tcp(const Walk *w, uint32_t at) {
    Observation *o = w->seen;
    if (!ports(w, at, 20)) return;
    const uint8_t *p = w->frame + at;
    uint32_t header = 4u * (p[12] >> 4);
    o->layers |= HAS_TCP;
    o->tcp_sequence = be32(p + 4), o->tcp_acknowledgement = be32(p + 8);
    o->tcp_flags = be16(p + 12) & 0x0fff, o->tcp_window = (uint16_t)be16(p + 14);
    if (header < 20 || header > w->end - at) {
        if (header < 20 || !(o->more_fragments || w->in_fragment)) note(w, BAD_TCP_HEADER_LENGTH);
        no_payload(w, at + 20);
    } else {
        payload(w, at + header);
        application(w);
    }
    o->tcp_sequence_end = o->tcp_sequence + o->payload_bytes + (o->tcp_flags >> 1 & 1) + (o->tcp_flags & 1);
}

static void udp(Walk *w, uint32_t at) {
    Observation *o = w->seen;
    if (!ports(w, at, 8)) return;
    uint32_t length = be16(w->frame + at + 4);
    o->layers |= HAS_UDP;
    if (length && length < 8) {
        note(w, BAD_UDP_LENGTH);
        return;
    }
    if (length > w->end - at && !o->more_fragments && !w->in_fragment) note(w, BAD_UDP_LENGTH);
    if (length) w->end = least(w->end, at + length); /* 0: longer than the field can say (RFC 2675), or before offload */
    payload(w, at + 8);
    w->in_fragment |= o->more_fragments;
    int tunnel = 0;
    if (o->destination_port == PORT_VXLAN || o->destination_port == PORT_VXLAN_LINUX) tunnel = vxlan(w, at + 8);
    else if (o->destination_port == PORT_GENEVE) tunnel = geneve(w, at + 8);
    if (!tunnel) application(w);
}

static void icmp(const Walk *w, uint32_t at) {
    Observation *o = w->seen;
    no_payload(w, at);
    if (lacks(w, at, 4, IN_TRANSPORT)) return;
    const uint8_t *p = w->frame + at;
    o->icmp_type = p[0], o->icmp_code = p[1];
    o->layers |= HAS_ICMP | HAS_FLOW;
    if (lacks(w, at, 8, IN_TRANSPORT)) return;
    if (o->protocol == ICMP ? p[0] == 0 || p[0] == 8 : p[0] == 128 || p[0] == 129)
        o->icmp_id = (uint16_t)be16(p + 4), o->icmp_sequence = (uint16_t)be16(p + 6);
    payload(w, at + 8);
}

/* What an IP header announces at `at`, behind its extension headers. */
static void transport(Walk *w, uint32_t at) {
    Observation *o = w->seen;
    if (o->fragment_offset_bytes) { /* what follows is no header */
        payload(w, at);
        return;
    }
    switch (o->protocol) {
    case TCP: tcp(w, at); return;
    case UDP: udp(w, at); return;
    case ICMP: case ICMP6: icmp(w, at); return;
    case UDP_LITE:
        if (ports(w, at, 8)) payload(w, at + 8);
        return;
    case SCTP:
        if (ports(w, at, 12)) payload(w, at + 12);
        return;
    case DCCP:
        if (ports(w, at, 12)) payload(w, at + least(4u * w->frame[at + 4], w->end - at));
        return;
    }
    o->layers |= HAS_FLOW;
    payload(w, at);
    w->in_fragment |= o->more_fragments;
    if (o->protocol == GRE) gre(w, at);
    else if (o->protocol == IP_IN_IP && enter(w, TUNNEL_IP, 0)) ip4(w, at);
    else if (o->protocol == IP6_IN_IP && enter(w, TUNNEL_IP, 0)) ip6(w, at);
}

/* IPv6 extension headers whose second byte is their length in 8 bytes, without the first 8. */
static int is_extension(uint32_t protocol) {
    return protocol == 0 || protocol == 43 || protocol == 60 || protocol == 135 || protocol == 139 || protocol == 140;
}

static void extensions(Walk *w, uint32_t at, uint32_t protocol) {
    Observation *o = w->seen;
    for (int left = MOST_EXTENSIONS;; left--) {
        o->protocol = (uint8_t)protocol;
        int fragment = o->ip_version == 6 && protocol == FRAGMENT;
        if (protocol != AH && !fragment && !(o->ip_version == 6 && is_extension(protocol))) break;
        if (o->fragment_offset_bytes) break;
        no_payload(w, at);
        if (!left) {
            note(w, BAD_EXTENSION);
            return;
        }
        if (lacks(w, at, 8, IN_EXTENSION)) return;
        const uint8_t *p = w->frame + at;
        uint32_t size = fragment ? 8 : protocol == AH ? 4 * (p[1] + 2u) : 8 * (p[1] + 1u);
        if (size > w->end - at && !w->in_fragment && !o->more_fragments) {
            note(w, BAD_EXTENSION);
            return;
        }
        if (lacks(w, at, size, IN_EXTENSION)) return;
        if (protocol == AH && size < 12) {
            note(w, BAD_EXTENSION);
            return;
        }
        o->layers |= HAS_EXTENSIONS;
        if (fragment) {
            o->fragment_offset_bytes = be16(p + 2) & 0xfff8, o->more_fragments = p[3] & 1;
            o->ip_id = be32(p + 4);
            if (o->fragment_offset_bytes || o->more_fragments) o->layers |= IS_FRAGMENT;
        }
        protocol = p[0], at += size;
    }
    transport(w, at);
}

/* Where a packet that says it is `total` bytes long ends; a frame that ends before is a contradiction. */
static void bound(Walk *w, uint32_t at, uint32_t total) {
    if (total > w->end - at) {
        if (!w->in_fragment) note(w, BAD_IP_TOTAL_LENGTH);
    } else {
        w->end = at + total;
    }
}

static void ip4(Walk *w, uint32_t at) {
    Observation *o = w->seen;
    seek(w, at);
    if (lacks(w, at, 1, IN_IP)) return;
    const uint8_t *p = w->frame + at;
    if (p[0] >> 4 != 4) {
        note(w, BAD_IP_VERSION);
        return;
    }
    if (lacks(w, at, 20, IN_IP)) return;
    uint32_t header = 4u * (p[0] & 15), total = be16(p + 2), fragment = be16(p + 6);
    if (header < 20 || (total && total < header)) {
        note(w, header < 20 ? BAD_IP_HEADER_LENGTH : BAD_IP_TOTAL_LENGTH);
        return;
    }
    begin(w, at);
    o->layers |= HAS_IP, o->ip_version = 4;
    o->dscp = p[1] >> 2, o->ecn = p[1] & 3, o->ip_id = be16(p + 4), o->ttl = p[8];
    o->source_address = mapped(p + 12), o->destination_address = mapped(p + 16);
    o->more_fragments = fragment >> 13 & 1, o->fragment_offset_bytes = (uint16_t)(fragment << 3);
    if (fragment & 0x3fff) o->layers |= IS_FRAGMENT;
    o->ip_total_bytes = total ? total : w->end - at; /* 0: before segmentation offload, longer than the field can say */
    o->protocol = p[9];
    if (total) bound(w, at, total);
    no_payload(w, at + 20);
    if (lacks(w, at, header, IN_IP)) return;
    extensions(w, at + header, p[9]);
}

static void ip6(Walk *w, uint32_t at) {
    Observation *o = w->seen;
    seek(w, at);
    if (lacks(w, at, 1, IN_IP)) return;
    const uint8_t *p = w->frame + at;
    if (p[0] >> 4 != 6) {
        note(w, BAD_IP_VERSION);
        return;
    }
    if (lacks(w, at, 40, IN_IP)) return;
    begin(w, at);
    uint32_t length = be16(p + 4);
    o->layers |= HAS_IP, o->ip_version = 6;
    o->dscp = (uint8_t)(be16(p) >> 6 & 63), o->ecn = p[1] >> 4 & 3, o->ttl = p[7];
    memcpy(o->source_address.bytes, p + 8, 16), memcpy(o->destination_address.bytes, p + 24, 16);
    if (length || p[6] == NO_NEXT_HEADER) bound(w, at, 40 + length); /* else a jumbogram (RFC 2675), or before offload */
    o->ip_total_bytes = length ? 40 + length : w->end - at;
    extensions(w, at + 40, p[6]);
}

static void arp(const Walk *w, uint32_t at) {
    Observation *o = w->seen;
    seek(w, at);
    if (lacks(w, at, 8, IN_ARP)) return;
    const uint8_t *p = w->frame + at;
    uint32_t hardware = p[4], address = p[5], size = 8 + 2 * hardware + 2 * address;
    begin(w, at);
    o->layers |= HAS_ARP, o->arp_operation = (uint16_t)be16(p + 6);
    no_payload(w, at + 8);
    if (lacks(w, at, size, IN_ARP)) return;
    no_payload(w, at + size);
    if (be16(p + 2) != TYPE_IP4 || address != 4) return;
    o->source_address = mapped(p + 8 + hardware), o->destination_address = mapped(p + 12 + 2 * hardware);
}

/* Without an announced version: what the first half byte says. */
static void ip(Walk *w, uint32_t at) {
    seek(w, at);
    if (lacks(w, at, 1, IN_IP)) return;
    if (w->frame[at] >> 4 == 6) ip6(w, at);
    else ip4(w, at);
}

static void mpls(Walk *w, uint32_t at) {
    seek(w, at);
    for (int left = MOST_LABELS; left; left--, at += 4) {
        if (lacks(w, at, 4, IN_TUNNEL)) return;
        w->seen->layers |= HAS_MPLS;
        if (!(w->frame[at + 2] & 1)) continue;
        at += 4;
        if (lacks(w, at, 1, IN_IP)) return;
        if (w->frame[at] >> 4 == 4) ip4(w, at);
        else if (w->frame[at] >> 4 == 6) ip6(w, at);
        else other(w, at);
        return;
    }
    note(w, BAD_TAGS);
}

static void pppoe(Walk *w, uint32_t at) {
    seek(w, at);
    if (lacks(w, at, 8, IN_TUNNEL)) return;
    uint32_t protocol = be16(w->frame + at + 6), length = be16(w->frame + at + 4);
    w->seen->layers |= HAS_PPPOE;
    if (length >= 2) w->end = least(w->end, at + 6 + length);
    if (protocol == 0x21) ip4(w, at + 8);
    else if (protocol == 0x57) ip6(w, at + 8);
    else other(w, at + 8);
}

/* What an EtherType announces; the outermost frame's is a column. */
static void network(Walk *w, uint32_t at, uint32_t type) {
    if (!w->seen->tunnels) w->seen->ethertype = (uint16_t)type;
    switch (type) {
    case TYPE_IP4: ip4(w, at); break;
    case TYPE_IP6: ip6(w, at); break;
    case TYPE_ARP: case TYPE_RARP: arp(w, at); break;
    case 0x8847: case 0x8848: mpls(w, at); break;
    case 0x8864: pppoe(w, at); break;
    default: other(w, at);
    }
}

/* IEEE 802.2 with SNAP's EtherTypes (RFC 1042). */
static void llc(Walk *w, uint32_t at) {
    static const uint8_t snap[6] = {0xaa, 0xaa, 3, 0, 0, 0};
    uint32_t there = least(w->captured, w->end);
    if (at <= there && there - at >= 8 && !memcmp(w->frame + at, snap, 6) && be16(w->frame + at + 6) >= FIRST_ETHERTYPE)
        network(w, at + 8, be16(w->frame + at + 6));
    else other(w, at);
}

static int is_tag(uint32_t type) { return type == 0x8100 || type == 0x88a8 || type == 0x9100 || type == 0x9200; }

static void tagged(Walk *w, uint32_t at, uint32_t type) {
    Observation *o = w->seen;
    for (int left = MOST_TAGS; is_tag(type); left--) {
        seek(w, at);
        if (!left) note(w, BAD_TAGS);
        if (!left || lacks(w, at, 4, IN_TAG)) return;
        uint16_t id = be16(w->frame + at) & 0x0fff;
        if (!o->tunnels) {
            if (o->vlan_tags++) o->vlan_inner = id;
            else o->vlan_outer = id;
        }
        type = be16(w->frame + at + 2), at += 4;
    }
    if (type >= FIRST_ETHERTYPE) {
        network(w, at, type);
        return;
    }
    if (type <= 1500) w->end = least(w->end, at + type);
    llc(w, at);
}

static void ethernet(Walk *w, uint32_t at) {
    Observation *o = w->seen;
    seek(w, at);
    if (lacks(w, at, 14, IN_LINK)) return;
    const uint8_t *p = w->frame + at;
    if (!o->tunnels) {
        memcpy(o->destination_mac.bytes, p, 6), memcpy(o->source_mac.bytes, p + 6, 6);
        o->layers |= HAS_ETHERNET;
    }
    tagged(w, at + 14, be16(p + 12));
}

/* Linux' cooked captures: the sender's address, its hardware type, and an EtherType unless that is netlink's. */
static void cooked(Walk *w, uint32_t at, uint32_t type, uint32_t hardware, uint32_t bytes, const uint8_t *address) {
    if (bytes == 6) memcpy(w->seen->source_mac.bytes, address, 6);
    if (hardware != 824 && type >= FIRST_ETHERTYPE) tagged(w, at, type);
    else if (hardware != 824 && type == 4) llc(w, at);
    else other(w, at);
}

static void walk(Walk *w, int link_type) {
    const uint8_t *p = w->frame;
    switch (link_type) {
    case 1: ethernet(w, 0); break;
    case 0: case 108: { /* BSD loopback: an address family of 4 bytes, of either byte order with 0 */
        if (lacks(w, 0, 4, IN_LINK)) break;
        uint32_t big = be32(p), family = big < 0x10000 ? big : (uint32_t)p[1] << 8 | p[0];
        if (family == 2) ip4(w, 4);
        else if (family == 10 || family == 24 || family == 28 || family == 30) ip6(w, 4);
        else other(w, 4);
        break;
    }
    case 12: case 14: case 101: ip(w, 0); break;
    case 228: ip4(w, 0); break;
    case 229: ip6(w, 0); break;
    case 113:
        if (!lacks(w, 0, 16, IN_LINK)) cooked(w, 16, be16(p + 14), be16(p + 2), be16(p + 4), p + 6);
        break;
    case 276:
        if (!lacks(w, 0, 20, IN_LINK)) cooked(w, 20, be16(p), be16(p + 8), p[11], p + 12);
        break;
    default:
        payload(w, 0);
        note(w, BAD_LINK_TYPE);
    }
}

#endif
