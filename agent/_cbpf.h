/* Classic BPF over bytes: the judge of recorded packets, and the oracle of the programs that the kernel runs.
 *
 * Plain C without Python. The contract: filter_run() takes only programs that filter_valid() passed; then no program
 * and no packet can make it read outside the packet, or run longer than one step per instruction (jumps only go
 * forward). Semantics: McCanne & Jacobson 1993 as libpcap's bpf_filter.c has them.
 */
#ifndef WIREPOOL_CBPF_H
#define WIREPOOL_CBPF_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

#include "_bytes.h"

/* What the kernel's bpf_check_classic() and libpcap's bpf_validate() demand: after this the interpreter below needs no
 * check but those of packet loads. */
static int filter_valid(const struct sock_filter *f, ptrdiff_t n) {
    if (n < 1 || n > BPF_MAXINSNS) return 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t left = (uint32_t)(n - i - 1);
        uint16_t op;
        switch (f[i].code) {
        case BPF_LD | BPF_MEM: case BPF_LDX | BPF_MEM: case BPF_ST: case BPF_STX:
            if (f[i].k >= BPF_MEMWORDS) return 0;
            break;
        case BPF_LD | BPF_W | BPF_ABS: case BPF_LD | BPF_H | BPF_ABS: case BPF_LD | BPF_B | BPF_ABS:
        case BPF_LD | BPF_W | BPF_IND: case BPF_LD | BPF_H | BPF_IND: case BPF_LD | BPF_B | BPF_IND:
        case BPF_LD | BPF_IMM: case BPF_LDX | BPF_IMM: case BPF_LD | BPF_W | BPF_LEN: case BPF_LDX | BPF_W | BPF_LEN:
        case BPF_LDX | BPF_B | BPF_MSH: case BPF_MISC | BPF_TAX: case BPF_MISC | BPF_TXA: case BPF_ALU | BPF_NEG:
        case BPF_RET | BPF_K: case BPF_RET | BPF_A:
            break;
        case BPF_JMP | BPF_JA:
            if (f[i].k >= left) return 0;
            break;
        default:
            op = f[i].code & 0xf0;
            if (f[i].code > 0xff) return 0;
            if (BPF_CLASS(f[i].code) == BPF_JMP && op >= BPF_JEQ && op <= BPF_JSET) {
                if (f[i].jt >= left || f[i].jf >= left) return 0;
            } else if (BPF_CLASS(f[i].code) == BPF_ALU && op <= BPF_XOR && op != BPF_NEG) {
                if (BPF_SRC(f[i].code) == BPF_K && (op == BPF_DIV || op == BPF_MOD) && f[i].k == 0) return 0;
                if (BPF_SRC(f[i].code) == BPF_K && (op == BPF_LSH || op == BPF_RSH) && f[i].k > 31) return 0;
            } else {
                return 0;
            }
        }
    }
    return BPF_CLASS(f[n - 1].code) == BPF_RET;
}

typedef struct {
    const uint8_t *data;
    uint32_t captured, original;
    uint32_t type;     /* PACKET_HOST … PACKET_OUTGOING */
    int64_t tag;       /* tpid << 16 | tci where the tag is beside the frame, as on a socket; -1: none */
} Frame;

/* A validated program's verdict: bytes to keep, 0 to turn away. A load beyond what was captured turns away, as in the
 * kernel and in libpcap. Of the kernel's ancillary loads those are known that tcpdump's language or our own VLAN
 * translation (agent/tag_filter.py) can produce. */
static uint32_t filter_run(const struct sock_filter *f, const Frame *frame) {
    uint32_t a = 0, x = 0, memory[BPF_MEMWORDS] = {0};
    for (;; f++) {
        uint32_t k = f->k, at, size;
        switch (f->code) {
        case BPF_RET | BPF_K: return k;
        case BPF_RET | BPF_A: return a;
        case BPF_LD | BPF_W | BPF_ABS: case BPF_LD | BPF_H | BPF_ABS: case BPF_LD | BPF_B | BPF_ABS:
            switch (k) {
            case (uint32_t)SKF_AD_OFF + SKF_AD_PKTTYPE: a = frame->type; continue;
            case (uint32_t)SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT: a = frame->tag >= 0; continue;
            case (uint32_t)SKF_AD_OFF + SKF_AD_VLAN_TAG: a = frame->tag < 0 ? 0 : frame->tag & 0xffff; continue;
            case (uint32_t)SKF_AD_OFF + SKF_AD_VLAN_TPID: a = frame->tag < 0 ? 0 : frame->tag >> 16 & 0xffff; continue;
            }
            at = k;
            goto load;
        case BPF_LD | BPF_W | BPF_IND: case BPF_LD | BPF_H | BPF_IND: case BPF_LD | BPF_B | BPF_IND:
            at = x + k;
            if (at < x) return 0; /* wrapped around */
        load:
            size = BPF_SIZE(f->code) == BPF_W ? 4 : BPF_SIZE(f->code) == BPF_H ? 2 : 1;
            if (at > frame->captured || size > frame->captured - at) return 0;
            a = size == 4 ? be32(frame->data + at) : size == 2 ? be16(frame->data + at) : frame->data[at];
            continue;
        case BPF_LDX | BPF_B | BPF_MSH:
            if (k >= frame->captured) return 0;
            x = 4u * (frame->data[k] & 15);
            continue;
        case BPF_LD | BPF_IMM: a = k; continue;
        case BPF_LDX | BPF_IMM: x = k; continue;
        case BPF_LD | BPF_MEM: a = memory[k]; continue;
        case BPF_LDX | BPF_MEM: x = memory[k]; continue;
        case BPF_LD | BPF_W | BPF_LEN: a = frame->original; continue;
        case BPF_LDX | BPF_W | BPF_LEN: x = frame->original; continue;
        case BPF_ST: memory[k] = a; continue;
        case BPF_STX: memory[k] = x; continue;
        case BPF_MISC | BPF_TAX: x = a; continue;
        case BPF_MISC | BPF_TXA: a = x; continue;
        case BPF_JMP | BPF_JA: f += k; continue;
        }
        uint32_t operand = BPF_SRC(f->code) == BPF_X ? x : k;
        if (BPF_CLASS(f->code) == BPF_JMP) {
            uint16_t op = f->code & 0xf0;
            int yes = op == BPF_JEQ   ? a == operand
                      : op == BPF_JGT ? a > operand
                      : op == BPF_JGE ? a >= operand
                                      : (a & operand) != 0;
            f += yes ? f->jt : f->jf;
            continue;
        }
        switch (f->code & 0xf0) { /* BPF_ALU: nothing else passes filter_valid() */
        case BPF_ADD: a += operand; break;
        case BPF_SUB: a -= operand; break;
        case BPF_MUL: a *= operand; break;
        case BPF_DIV: if (!operand) return 0; a /= operand; break;
        case BPF_MOD: if (!operand) return 0; a %= operand; break;
        case BPF_AND: a &= operand; break;
        case BPF_OR: a |= operand; break;
        case BPF_XOR: a ^= operand; break;
        case BPF_LSH: a = operand < 32 ? a << operand : 0; break;
        case BPF_RSH: a = operand < 32 ? a >> operand : 0; break;
        case BPF_NEG: a = -a; break;
        }
    }
}

#endif
