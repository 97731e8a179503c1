"""Packets as they come in: a core subscription that nothing else waits for.

feed           the subscription and who watches; viewer is what one page gets of it
observation    names a packet; lookup finds it among the recent batches or in the archive
"""
