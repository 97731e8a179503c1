"""The contract that agent and hub share: names, keys, signed envelopes, batches, chains, capture-file assembly.

Nothing in here opens a socket, reads a clock or knows of the other side. Bytes and times come in as arguments, values
go out; whatever comes from elsewhere and is wrong is a `wire.errors.WireError` and nothing else.

errors        the one exception of every decoder
names         grammar of agent, session and lane; subjects, streams, message ids
keys          Ed25519 signing keys and their files
strict_cbor   bounded CBOR: text keys, no duplicates, no tags, no surprises
cose          COSE_Sign1 over exact bytes with a domain
fields        checked access to the members of a decoded map
clock         the state of a host's clock as measured
books         the counters and the equations between them
batch         wire version 1: the header, sealing and opening; body, compression and framing are its parts
chain         what a set of batches proves: intact, declared drop, unexplained gap, open tail
control       signed envelopes between hub and agent (desired, report, heartbeat, requests)
session, report, enrolment   what those envelopes carry
_columns      the C kernels over packet columns
pcapng, capture_file         capture files from columns, and columns from capture files
evidence      .wpz: original messages + certificates + manifest, written as a stream and verified
cli           `decode` (decode_command, decode_outputs, packet_summary) and `verify` (verify_command)
"""
