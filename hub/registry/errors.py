"""What a caller of the registry must be ready for."""


class RegistryError(Exception):
    """A request that the registry refuses; the text says why and is fit for the page or the terminal."""


class UnknownError(RegistryError):
    """No such agent, session, user or viewer."""


class ConflictError(RegistryError):
    """The name or key is taken, or the state machine does not allow the step."""
