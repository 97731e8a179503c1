"""The protocol tree of one packet that somebody opened: every field with its value and the bytes it stands in.

packet         one packet → its tree; the only way in
link → network → transport → application    the layers, each handing on to the next
dns, tls, http, dhcp, ntp                   what applications say
tree           what a tree is made of, and its bounds
"""
