"""One line of summary per shown packet, out of bytes nobody vouches for.

summary       one packet → its row; the only way in
link → network → application    the layers, each handing on to the next
packet_line   the line they fill in, and reading bytes that may not be there
"""
