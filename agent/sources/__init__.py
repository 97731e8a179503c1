"""Where packets come from: `source` says what every source is, `ring` and `replay` are the two there are."""
