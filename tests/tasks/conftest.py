"""What JAX has to compile, by its own count."""

import pytest
from jax import monitoring


@pytest.fixture
def compiles():
    """Returns a list of JAX's cache events; programs of any length are kept (tests/conftest.py)."""
    seen = []

    def listen(event, **_):
        if event.startswith("/jax/compilation_cache/"):
            seen.append(event.rpartition("/")[2])

    monitoring.register_event_listener(listen)
    yield seen
    monitoring.unregister_event_listener(listen)
