"""The stored batches: read back, exported, and removed in the end.

reading        one subject of a stream in stream order; export (with export_pcapng) is made of it
keeper         makes room: oldest first, only what the ledger confirmed
"""
