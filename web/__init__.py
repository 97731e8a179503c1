"""Templates and static files of the page; htmx is vendored with its version and licence."""
