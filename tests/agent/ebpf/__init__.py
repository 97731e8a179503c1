"""Tests of agent/ebpf and bpf/."""
