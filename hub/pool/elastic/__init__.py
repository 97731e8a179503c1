"""The pool in Elasticsearch, 7.17 and 8.x alike (docs/elasticsearch.md).

connection   one client for both: addresses, TLS, who we are, and errors that say what to do
indices      names of indices, their templates, which day a batch belongs to
lines        a batch to bulk lines, by one call into C (`_bulk.c`)
writer       bulk requests: bounded, repeated where Elasticsearch asks for it, counted where it refuses
questions    the query language's tree to Elasticsearch's
answers      what comes back, as rows
keeping      deleting by age, size and session
store        all of it as hub.pool.store.Store
"""
