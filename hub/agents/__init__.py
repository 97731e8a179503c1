"""The conversations with agents, and the sessions they are about.

sessions       which step is allowed when, and the name of each state; the only place that changes one
switch         disabled agents get no sessions
declarer       what an agent shall do, signed; control asks what wants an answer now
presence       who is there: sighting is its logic without a clock, status says it in words
admission      a host becomes an agent
connectivity   the way to an agent and back, step by step; interface_rates: what its interfaces carry
finding        who is meant by an address or a name
filter_check   an early answer on a capture filter while the agent is away
"""
