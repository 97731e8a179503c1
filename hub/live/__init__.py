"""Packets as they come in: a core subscription that nothing else waits for.

feed       the subscription and who watches; viewer is what one page gets of it
backlog    what was there before the page
lookup     one packet by its name, among the recent batches or in the archive
"""
