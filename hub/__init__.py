"""The hub: who may do what, what is wanted, what came in, and the page that shows it.

backbone/   the NATS server's keys, accounts, permissions, streams and configuration
registry/   SQLite: users, agents, sessions, what has been verified
bus         the connection; declarer, control, presence: the three conversations with agents
ledger, live, export, keeper    the four readers of batches, none of which another can hold up
app, routes/, server    the page; its templates are in web/
cli, commands/          the verbs of `wirepool`; stack and supervisor run `wirepool up`
process     all of it put together
"""
