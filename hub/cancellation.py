"""A task that was told to end does end, although the word was lost on its way."""

import asyncio


def obey_cancellation() -> None:
    """Raise CancelledError in a task that has been cancelled and doesn't know.

    A cancellation can be lost in nats-py: it turns one into "connection closed", and the `asyncio.wait_for` of Python
    3.11, which it is made of, forgets one that comes together with the result (mended in 3.12). A loop over nats-py
    then goes on for ever after it was told to stop, and whoever waits for its end with it. So every loop comes by here.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
