"""Asking the pool: what an address of the page Explore means, and what becomes of the answer (rows, a timeline, tables
to download, one pcapng, swim lanes). It knows the pool's store only through hub.pool.store, and no web.
"""
