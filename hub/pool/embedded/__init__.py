"""The store that comes along: DuckDB for observations, SQLite for what the correlation makes of them.

columns    which columns a packet has there, and how each field of hub.pool.fields is asked for in SQL
compile    a query's tree to SQL
packets    the observations: one writer, readers beside it
derived    conversations and clock offsets
store      both as one hub.pool.store.Store, off the event loop
"""
