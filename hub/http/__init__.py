"""How HTTP is served: hypercorn in this process, its limits, and its corrections; knows no page.

server         HTTP/2 over TLS 1.3 (renewal_tls), with http2_flow and connection_end
request_limits below the application; streaming for answers that take long
"""
