"""redis-py with its default options through the proxy: `test.py HOST PORT`.

Everything is done twice: in RESP3, which redis-py speaks by itself, and in RESP2. The keys that
`many_keys` writes stay, so that the caller can see on which nodes they are.
"""

import sys
import threading
import time

import redis
from redis.exceptions import ClusterCrossSlotError, ResponseError

# What RESP puts between values, and every byte.
BINARY = b"\r\n$-1\r\n\0" + bytes(range(256))


def main(host, port):
    def connect(protocol=None, **options):
        if protocol is not None:
            options["protocol"] = protocol
        return redis.Redis(host, port, **options)

    for name, protocol in ("redis-py", None), ("redis-py-resp2", 2):
        print(name)
        client = connect(protocol)
        connection(client, lambda **options: connect(protocol, **options), protocol or 3)
        for check in many_keys, types, values, expiry, pipeline, errors, refused, closed:
            check(client, f"{name}:{check.__name__}".encode())
    side_by_side(connect)


def equal(got, expected, what):
    assert got == expected, f"{what}: {shown(got)} instead of {shown(expected)}"


def fails(call, kind, text):
    try:
        got = call()
    except kind as error:
        assert text in str(error), f"the error {error} does not say {text!r}"
    else:
        raise AssertionError(f"{shown(got)} instead of the error {text!r}")


def shown(value):
    text = repr(value)
    return text if len(text) < 500 else f"{text[:500]}... ({len(text)} characters)"


def connection(client, connect, protocol):
    hello = client.execute_command("HELLO")
    if isinstance(hello, list):
        hello = dict(zip(hello[::2], hello[1::2]))
    equal(hello[b"proto"], protocol, "the protocol")
    equal(hello[b"id"], client.client_id(), "CLIENT ID and HELLO's")
    equal(client.client_getname(), None, "CLIENT GETNAME of a client without a name")
    equal(client.client_setname("renamed"), True, "CLIENT SETNAME")
    equal(client.client_getname(), "renamed", "CLIENT GETNAME")
    with connect(client_name="named", db=0) as other:
        equal(other.client_getname(), "named", "CLIENT GETNAME")
        assert other.client_id() != client.client_id(), "two clients have one CLIENT ID"
    equal(client.ping(), True, "PING")
    equal(client.echo("x"), b"x", "ECHO")


def many_keys(client, prefix):
    keys = [b"%s:%d" % (prefix, index) for index in range(300)]
    values = {key: b"value of " + key for key in keys}
    for key in keys[:100]:
        equal(client.set(key, values[key]), True, "SET")
    equal(client.mset({key: values[key] for key in keys[100:]}), True, "MSET")
    for key in keys:
        equal(client.get(key), values[key], "GET")
    missing = prefix + b":missing"
    equal(client.mget(missing, *keys, missing), [None, *values.values(), None], "MGET")
    equal(client.exists(missing, *keys, keys[0]), 301, "EXISTS")
    equal(client.touch(missing, *keys), 300, "TOUCH")
    equal(client.delete(missing, *keys[:50]), 50, "DEL")
    equal(client.unlink(*keys[:100]), 50, "UNLINK")
    equal(client.exists(*keys), 200, "EXISTS")
    equal(client.mset(values), True, "MSET")


def types(client, prefix):
    for index in range(20):
        key = b"%s:%d" % (prefix, index)
        client.delete(key)
        equal(client.hset(key, mapping={"a": 1, "b": 2}), 2, "HSET")
        equal(client.hgetall(key), {b"a": b"1", b"b": b"2"}, "HGETALL")
        equal(client.hmget(key, "b", "missing"), [b"2", None], "HMGET")
        equal(client.hincrbyfloat(key, "a", 0.5), 1.5, "HINCRBYFLOAT")

        client.delete(key)
        equal(client.rpush(key, "a", "b", "c"), 3, "RPUSH")
        equal(client.lrange(key, 0, -1), [b"a", b"b", b"c"], "LRANGE")
        equal(client.lpop(key), b"a", "LPOP")
        equal(client.lpos(key, "missing"), None, "LPOS")

        client.delete(key)
        equal(client.sadd(key, "a", "b", "a"), 2, "SADD")
        equal(client.smembers(key), {b"a", b"b"}, "SMEMBERS")
        equal(client.sismember(key, "c"), 0, "SISMEMBER")

        client.delete(key)
        equal(client.zadd(key, {"a": 1.5, "b": 2}), 2, "ZADD")
        equal(client.zscore(key, "a"), 1.5, "ZSCORE")
        pairs = [tuple(pair) for pair in client.zrange(key, 0, -1, withscores=True)]
        equal(pairs, [(b"a", 1.5), (b"b", 2.0)], "ZRANGE WITHSCORES")

        client.delete(key)
        first, second = client.xadd(key, {"n": 1}), client.xadd(key, {"n": 2})
        entries = [(first, {b"n": b"1"}), (second, {b"n": b"2"})]
        equal(client.xrange(key), entries, "XRANGE")
        equal(client.xread({key: first}), [[key, entries[1:]]], "XREAD")
        equal(client.xread({key: second}), [], "XREAD of nothing")

        script = "redis.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], 7}"
        equal(client.eval(script, 1, key, "x"), [key, 7], "EVAL")
        equal(client.get(key), b"x", "GET of what EVAL has set")


def values(client, prefix):
    key = prefix + BINARY
    client.delete(prefix, key)
    equal(client.set(key, BINARY), True, "SET")
    equal(client.get(key), BINARY, "GET of every byte")
    equal(client.mget(key, prefix), [BINARY, None], "MGET of every byte")
    equal(client.set(key, ""), True, "SET")
    equal(client.get(key), b"", "GET of nothing")
    large = BINARY * (5_000_000 // len(BINARY))
    equal(client.set(prefix, large), True, "SET of 5 MB")
    equal(client.get(prefix), large, "GET of 5 MB")
    equal(client.mget(key, prefix), [b"", large], "MGET of 5 MB")
    client.delete(prefix, key)
    equal(client.incr(prefix), 1, "INCR")
    equal(client.incrby(prefix, 41), 42, "INCRBY")
    equal(client.decr(prefix), 41, "DECR")
    equal(client.incrbyfloat(prefix, 0.5), 41.5, "INCRBYFLOAT")


def expiry(client, prefix):
    equal(client.set(prefix, "x", ex=100), True, "SET EX")
    assert 0 < client.ttl(prefix) <= 100, "TTL"
    equal(client.persist(prefix), True, "PERSIST")
    equal(client.ttl(prefix), -1, "TTL")
    equal(client.pexpire(prefix, 1), True, "PEXPIRE")
    deadline = time.monotonic() + 10
    while client.get(prefix) is not None:
        assert time.monotonic() < deadline, "a key lives on after its time"
    equal(client.ttl(prefix), -2, "TTL")


def pipeline(client, prefix):
    batch, expected = client.pipeline(transaction=False), []
    client.delete(*(b"%s:%d" % (prefix, index) for index in range(100)))
    for index in range(1000):
        key, turn = b"%s:%d" % (prefix, index % 100), index // 100
        match turn:
            case 0:
                batch.set(key, index)
                expected.append(True)
            case 1:
                batch.incr(key)
                expected.append(index - 99)
            case 2:
                batch.get(key)
                expected.append(b"%d" % (index - 199))
            case 3:
                batch.mget(key, b"%s:%d" % (prefix, (index + 1) % 100))
                expected.append([b"%d" % (n % 100 + 1) for n in (index, index + 1)])
            case 4:
                batch.lpush(key, "x")
                expected.append(ResponseError)
            case 5:
                batch.append(key, "abc")
                expected.append(len(str(index - 499)) + 3)
            case 6:
                batch.delete(key, prefix)
                expected.append(1)
            case 7:
                batch.rpush(key, "x", "y")
                expected.append(2)
            case 8:
                batch.lrange(key, 0, -1)
                expected.append([b"x", b"y"])
            case 9:
                batch.exists(key, key, prefix)
                expected.append(2)
    replies = batch.execute(raise_on_error=False)
    equal(len(replies), 1000, "replies to a pipeline")
    for index, (got, wanted) in enumerate(zip(replies, expected)):
        if wanted is ResponseError:
            assert isinstance(got, ResponseError) and "WRONGTYPE" in str(got), f"{index}: {got!r}"
        else:
            equal(got, wanted, f"reply {index} of a pipeline")


def errors(client, prefix):
    client.set(prefix, "x")
    fails(lambda: client.lpush(prefix, "x"), ResponseError, "WRONGTYPE Operation against")
    fails(lambda: client.incr(prefix), ResponseError, "value is not an integer")
    fails(lambda: client.rename(prefix, prefix + b"2"), ClusterCrossSlotError, "same slot")
    fails(lambda: client.execute_command("NOSUCH", "x"), ResponseError, "unknown command 'NOSUCH'")
    fails(lambda: client.execute_command("GET"), ResponseError, "wrong number of arguments")
    equal(client.get(prefix), b"x", "GET after errors")


def refused(client, prefix):
    before = client.client_id()
    in_clusters = "SWAPDB is not allowed in cluster mode"
    fails(lambda: client.execute_command("SWAPDB", "0", "1"), ResponseError, in_clusters)
    equal(client.client_id(), before, "CLIENT ID, of the same connection")


def closed(client, prefix):
    before = client.client_id()
    client.close()
    equal(client.set(prefix, "x"), True, "SET after a reconnect")
    assert client.client_id() != before, "close() has kept the connection"


def side_by_side(connect):
    """Two clients of different versions, each with what its version of HGETALL is."""
    key, failures = b"redis-py:side_by_side", []
    connect().hset(key, mapping={"a": 1})

    def hammer(protocol, expected):
        try:
            client = connect(protocol)
            # Not `hgetall`, which turns both into a dict.
            client.set_response_callback("HGETALL", lambda reply, **_: reply)
            for _ in range(500):
                equal(client.hgetall(key), expected, f"HGETALL in RESP{protocol}")
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=hammer, args=(2, [b"a", b"1"])),
        threading.Thread(target=hammer, args=(3, {b"a": b"1"})),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
