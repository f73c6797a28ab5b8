"""redis-py's cluster client through a proxy that plays a cluster: `cluster.py HOST PORT`."""

import sys

from redis.cluster import RedisCluster


def main(host, port):
    for name, options in ("redis-py", {}), ("redis-py-resp2", {"protocol": 2}):
        print(name)
        client = RedisCluster(host=host, port=port, **options)
        nodes = [(node.host, node.port) for node in client.get_nodes()]
        assert nodes == [(host, port)], nodes
        keys = {f"{name}:{number}": str(number).encode() for number in range(300)}
        for key, value in keys.items():
            equal(client.set(key, value), True, "SET")
        for key, value in keys.items():
            equal(client.get(key), value, "GET")
        equal(client.mget_nonatomic(list(keys)), list(keys.values()), "MGET")
        pipeline = client.pipeline()
        for key in keys:
            pipeline.incr(key)
        equal(pipeline.execute(), [int(value) + 1 for value in keys.values()], "a pipeline")
        found = {key.decode() for key in client.scan_iter(match=f"{name}:*")}
        equal(found, set(keys), "SCAN")
        equal(client.keyslot("a"), 15495, "the slot of a key")
        client.close()


def equal(got, expected, what):
    assert got == expected, f"{what}: {got!r} instead of {expected!r}"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
