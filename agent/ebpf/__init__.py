"""eBPF in the capture path: what loads the programs of bpf/, speaks to their maps, and turns filters into programs."""
