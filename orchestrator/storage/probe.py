"""Whether a store does what a lease or a commit marker needs."""

import secrets

from orchestrator.storage.store import Store


def honours_put_new(store: Store) -> bool:
    """Whether a second ``put_new`` of one key is refused and leaves the first one's bytes.

    Some S3 servers ignore If-None-Match and overwrite. Writes one small object and removes it.

    Raises:
        UserError: if nothing may be written there, or the store does not know such a put.
    """
    key = f".probe-{secrets.token_hex(8)}"
    first = store.put_new(key, b"first")
    try:
        second = store.put_new(key, b"second")
        return first and not second and store.get(key) == b"first"
    finally:
        store.delete(key)
