"""The verbs of `wirepool`, one module each: `add_arguments(parser)` and `run(args)`. See `hub.cli`."""
