"""What was verified: batches checked, booked and chained, each acknowledged after the commit.

ledger         the durable consumers; booking is one round of it, in one thread and one transaction
chains         what is kept of each chain; chain_runs its sequences as a few runs
verifying      is a message what its subject says, signed by whom it names
session_books  the sums of a session from the socket to the archive
"""
