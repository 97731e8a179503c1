"""The pages and their answers, one module per page; every route is walked by a stranger in a test."""
