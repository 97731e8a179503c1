"""One truth out of many viewpoints: clocks, the same packet at many places, conversations. Computing only, no I/O.

sightings          the rows that everything here works on, and the vantage points they come from
flows              who talks in a flow, and which way its direction counts
translation        which flows are one conversation on both sides of address translation
streams            what makes two sightings one packet: a hash, or a range of bytes where packets are cut differently
places             where in a packet's path each sighting stands
witnesses          each packet with all places that saw it
clock_samples      pairs of sightings whose order is known
clock_constraints  differences of clocks bounded by pairs: shortest paths, negative cycles
drift              how fast clocks run apart: convex hulls
clock_estimate     intervals and estimates over time, steps, the anchor
hops               delay and loss between neighbours
conversations      many conversations evaluated at once
described          one conversation as it is told to people
details            its lanes, packet by packet
sorted_runs        records found by a key, without looking at the others
held               the sightings in hand: by flow, by name, by content
pairing            joins kept up to date
kept_samples       pairs for the clocks, by conversation
correlator         what is kept between batches, in bounds
"""
