"""The agent: packets from a ring to the archive, one module per arrow.

    sources/    an interface's ring, or a recorded file
    session     one declared session: the thread that reads a source, seals batches and spools them
    batcher     columns → signed, chained batch
    spool       sealed batches in files until they are acknowledged (lane, segment, overflow)
    publisher   spool → JetStream, by way of link, which alone knows NATS
    desired, reconcile, reporting, control      what is wanted, made true, reported, and asked
    pipeline    all of it joined, and taken apart in an order that loses nothing

It meets the hub in `wire` only, listens nowhere, and imports nothing heavy.
"""
