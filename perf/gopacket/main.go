// A peer of perf/capture.py: gopacket's afpacket, used as its documentation recommends (TPACKET_V3, zero copy).
// It looks at each packet's length and keeps nothing. On SIGINT it says what it captured.
//
//	gopacket INTERFACE [CLASSIC BPF AS tcpdump -ddd PRINTS IT, LINES JOINED BY COMMAS]
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/gopacket/gopacket/afpacket"
	"golang.org/x/net/bpf"
)

const (
	blockBytes = 1 << 20
	blocks     = 64 // 64 MiB, as the others have
	frameBytes = 1 << 18
)

func instructions(text string) []bpf.RawInstruction {
	var found []bpf.RawInstruction
	for _, line := range strings.Split(text, ",")[1:] {
		var one bpf.RawInstruction
		if _, err := fmt.Sscan(line, &one.Op, &one.Jt, &one.Jf, &one.K); err != nil {
			fail(err)
		}
		found = append(found, one)
	}
	return found
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "gopacket:", err)
	os.Exit(1)
}

func main() {
	ring, err := afpacket.NewTPacket(
		afpacket.OptInterface(os.Args[1]), afpacket.OptFrameSize(frameBytes), afpacket.OptBlockSize(blockBytes),
		afpacket.OptNumBlocks(blocks), afpacket.OptPollTimeout(100*time.Millisecond), afpacket.OptTPacketVersion(afpacket.TPacketVersion3))
	if err != nil {
		fail(err)
	}
	if len(os.Args) > 2 && os.Args[2] != "" {
		if err := ring.SetBPF(instructions(os.Args[2])); err != nil {
			fail(err)
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	var packets, bytes uint64
	for {
		select {
		case <-stop:
			fmt.Printf("%d packets captured, %d bytes\n", packets, bytes)
			return
		default:
		}
		for {
			data, _, err := ring.ZeroCopyReadPacketData()
			if err == afpacket.ErrTimeout {
				break
			}
			if err != nil {
				fail(err)
			}
			packets++
			bytes += uint64(len(data))
			if packets%4096 == 0 {
				break
			}
		}
	}
}
