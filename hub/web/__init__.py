"""The pages and the API: what a request may do, and what it gets to see.

app            the application; running is how a route reaches the hub's parts
guard, auth    what happens to each request before a route sees it
pages          HTML out of the templates in the folder web at the top of the tree
books_table, session_view, payload_form    records as people read and type them
routes/        one module per page
"""
