"""The hub: who may do what, what is wanted, what came in, and the page that shows it.

cli, commands/   the verbs of `wirepool`; terminal is what they share
up/              what `wirepool up` runs
process          all of the hub put together
web/             the pages and the API; http/ serves them; their templates are in web/ at the top of the tree
agents/          the conversations with agents, and the sessions they are about
live/, ledger/, archive/    the readers of batches, none of which another can hold up
decode/          one line per shown packet; dissect/ the whole of one that was opened
observe/         packets to columns, for the pool
registry/        SQLite: users, agents, sessions, what has been verified
backbone/        the NATS server's keys, accounts, permissions, streams and configuration
bus              the connection; cancellation, config and words stand below everything
"""
