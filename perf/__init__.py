"""Benchmarks, one file per claim: each prints a table and appends a line with date and machine to
`perf/results/`.

    python -m perf.pipeline --help
    python -m perf.latency --help

They need root (network namespaces) and load only namespaces of their own.
"""
