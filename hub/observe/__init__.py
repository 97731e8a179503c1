"""From a batch's packets to what is known of each: columns in, columns out, no Python per packet.

decode          one call per batch into the kernel (`_observe.c`)
observations    the columns, their units, and the words for what a packet lacks
application     the few packets whose payload is read: DNS, TLS hellos, HTTP/1 requests
"""
