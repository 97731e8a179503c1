"""The one error of every decoder in this package."""


class WireError(ValueError):
    """Bytes that came from elsewhere (a wire, a file, another host) are not what they must be.

    Decoders raise this and nothing else, whatever they are fed. Wrong use by our own code raises the
    builtins (`TypeError`, `ValueError`) as usual.
    """
