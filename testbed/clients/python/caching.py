"""redis-py's client-side caching through the proxy: `caching.py HOST PORT`."""

import sys
import time

import redis
from redis.cache import CacheConfig

# redis-py asks for 7.4 "to maximize compatibility"; what it uses, Redis 6 has already.
redis.connection.CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"

KEYS = 300
PATIENCE = 60


def main(host, port):
    caching = redis.Redis(host, port, protocol=3, cache_config=CacheConfig(max_size=1000))
    other = redis.Redis(host, port)
    names = [f"redis-py-caching:{number}" for number in range(KEYS)]
    for name in names:
        other.set(name, "before")
    for name in names:
        assert caching.get(name) == b"before", name
    cache = caching.get_cache()
    assert cache.size == KEYS, f"{cache.size} values cached"
    commands = calls(other)
    for name in names:
        assert caching.get(name) == b"before", name
    assert calls(other) == commands, "answered from the cache"
    for name in names:
        other.set(name, "after")
    for name in names:
        eventually(lambda: caching.get(name) == b"after", name)
    caching.close()
    other.close()


def calls(client):
    """GETs that any node has executed so far."""
    return client.info("commandstats").get("cmdstat_get", {}).get("calls")


def eventually(check, what):
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, f"stale: {what}"
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
