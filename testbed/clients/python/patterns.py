"""What applications build on redis-py, with its default options: `patterns.py HOST PORT`.

Everything is done twice: in RESP3, which redis-py speaks by itself, and in RESP2.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import redis
from redis.exceptions import LockNotOwnedError, ResponseError, WatchError

PATIENCE = 60

# At most ARGV[1] calls in a window of ARGV[2] milliseconds, by the clock of the key's node.
RATE_LIMIT = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('ZADD', KEYS[1], now, redis.call('INCR', KEYS[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""

CHECKS = []


def main(host, port):
    for name, options in ("redis-py", {}), ("redis-py-resp2", {"protocol": 2}):
        print(name)
        with redis.Redis(host, port, **options) as client:
            for check in CHECKS:
                print(" ", check.__name__)
                check(client, f"{name}:{check.__name__}")


def check(function):
    CHECKS.append(function)
    return function


def equal(got, expected, what):
    assert got == expected, f"{what}: {got!r} instead of {expected!r}"


def fails(call, kind, text):
    try:
        got = call()
    except kind as error:
        assert text in str(error), f"the error {error} does not say {text!r}"
    else:
        raise AssertionError(f"{got!r} instead of the error {text!r}")


def together(count, work):
    """Does `work` in so many threads at the same time, and returns what each has returned."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def keys_of(name, count):
    """Keys in as many slots, and so on all nodes."""
    return [f"{name}:{index}" for index in range(count)]


@check
def pipelines_in_transactions(client, name):
    for key in keys_of(name, 20):
        queue = f"{{{key}}}:queue"
        with client.pipeline() as batch:
            batch.set(key, 0).incr(key).rpush(queue, key).lrange(queue, 0, -1)
            equal(batch.execute(), [True, 1, 1, [key.encode()]], "a transaction's replies")
        batch = client.pipeline().incr(key).lpush(key, "x").incr(key)
        replies = batch.execute(raise_on_error=False)
        equal([replies[0], replies[2]], [2, 3], "replies around an error")
        assert isinstance(replies[1], ResponseError), f"{replies[1]!r}"


@check
def watched_keys(client, name):
    client.set(name, 0)
    with client.pipeline() as batch:
        batch.watch(name)
        value = int(batch.get(name))
        client.set(name, 10)
        batch.multi()
        batch.set(name, value + 1)
        fails(batch.execute, WatchError, "changed")
    equal(client.get(name), b"10", "GET of what another client has set")

    def increment(batch):
        value = int(batch.get(name))
        batch.multi()
        batch.set(name, value + 1)

    # Tries again until no other client came in between.
    together(4, lambda _: [client.transaction(increment, name) for _ in range(10)])
    equal(client.get(name), b"50", "a counter of four clients")


@check
def blocking_pops(client, name):
    equal(client.blpop(name, timeout=0.05), None, "BLPOP of nothing")
    queues = [f"{{{name}}}:{index}" for index in range(3)]
    with ThreadPoolExecutor(4) as pool:
        work = {
            "BLPOP": (lambda: client.blpop(queues, PATIENCE), lambda: client.rpush(queues[2], "x")),
            "BRPOP": (lambda: client.brpop(queues, PATIENCE), lambda: client.rpush(queues[1], "x")),
            "BLMOVE": (
                lambda: client.blmove(queues[0], queues[1], PATIENCE),
                lambda: client.rpush(queues[0], "x"),
            ),
            "BZPOPMIN": (
                lambda: client.bzpopmin(f"{name}:sorted", PATIENCE),
                lambda: client.zadd(f"{name}:sorted", {"x": 1.5}),
            ),
            "XREAD": (
                lambda: client.xread({f"{name}:stream": 0}, block=PATIENCE * 1000),
                lambda: client.xadd(f"{name}:stream", {"n": 1}, id="1-1"),
            ),
        }
        replies = {}
        for command, (pop, push) in work.items():
            waiting = pool.submit(pop)
            push()
            replies[command] = waiting.result(PATIENCE)
    queue = [queue.encode() for queue in queues]
    equal(replies["BLPOP"], (queue[2], b"x"), "BLPOP")
    equal(replies["BRPOP"], (queue[1], b"x"), "BRPOP")
    equal(replies["BLMOVE"], b"x", "BLMOVE")
    equal(tuple(replies["BZPOPMIN"]), (f"{name}:sorted".encode(), b"x", 1.5), "BZPOPMIN")
    equal(replies["XREAD"], [[f"{name}:stream".encode(), [(b"1-1", {b"n": b"1"})]]], "XREAD")
    client.delete(*queues, f"{name}:stream")

    # Each of 40 jobs goes to one of four workers.
    def worker(_):
        jobs = []
        while (job := client.blpop(name, PATIENCE)[1]) != b"stop":
            jobs.append(int(job))
        return jobs

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(worker, index) for index in range(4)]
        for job in range(40):
            client.rpush(name, job)
        client.rpush(name, *["stop"] * 4)
        done = sorted(job for each in workers for job in each.result(PATIENCE))
    equal(done, list(range(40)), "jobs of four workers")


@check
def locks(client, name):
    for key in keys_of(name, 20):
        lock = client.lock(key, timeout=PATIENCE)
        assert lock.acquire(blocking=False), "a free lock"
        assert not client.lock(key).acquire(blocking=False), "a lock that another has"
        assert lock.owned() and lock.locked(), "the lock's owner"
        equal(lock.extend(PATIENCE), True, "extend")
        equal(lock.reacquire(), True, "reacquire")
        fails(lambda: lost(client, key, lock), LockNotOwnedError, "")
        lock = client.lock(key, timeout=PATIENCE)
        with lock:
            assert client.ttl(key) > 0, "a lock that never ends"
        equal(lock.locked(), False, "a lock that was released")

    client.set(f"{name}:counter", 0)

    def increment(_):
        for _ in range(5):
            with client.lock(f"{name}:lock", timeout=PATIENCE, sleep=0.005):
                client.set(f"{name}:counter", int(client.get(f"{name}:counter")) + 1)

    together(4, increment)
    equal(client.get(f"{name}:counter"), b"20", "a counter under a lock")


def lost(client, key, lock):
    client.delete(key)
    lock.release()


@check
def scripts(client, name):
    append = client.register_script("return redis.call('APPEND', KEYS[1], ARGV[1])")
    keys = keys_of(name, 20)
    for _ in range(2):
        client.delete(*keys)
        for key in keys:
            equal(append(keys=[key], args=["abc"]), 3, "a script")
        # Now it is unknown to each node and has to be told again.
        client.script_flush()
        for key in keys:
            equal(append(keys=[key], args=["abc"]), 6, "a script that was forgotten")
        client.script_flush()
        with client.pipeline(transaction=False) as batch:
            for key in keys:
                append(keys=[key], args=["abc"], client=batch)
            equal(batch.execute(), [9] * 20, "scripts in a pipeline")
        client.script_flush()
        with client.pipeline() as batch:
            batch.get(keys[0])
            append(keys=[keys[0]], args=["abc"], client=batch)
            equal(batch.execute(), [b"abc" * 3, 12], "a script in a transaction")


@check
def rate_limiter(client, name):
    allowed = client.register_script(RATE_LIMIT)
    for user in keys_of(name, 5):
        keys = [f"{{{user}}}:calls", f"{{{user}}}:serial"]
        client.delete(*keys)

        def calls(_):
            return sum(allowed(keys=keys, args=[7, PATIENCE * 1000]) for _ in range(5))

        equal(sum(together(4, calls)), 7, "calls that were allowed")
    client.delete(*keys)
    # By and by there is place again.
    deadline = client.time()[0] + PATIENCE
    for _ in range(3):
        while not allowed(keys=keys, args=[1, 50]):
            assert client.time()[0] < deadline, "the window does not move"


@check
def scan_iterators(client, name):
    keys = keys_of(name, 300)
    client.mset(dict.fromkeys(keys, "x"))
    expected = sorted(key.encode() for key in keys)
    equal(sorted(client.scan_iter(f"{name}:*")), expected, "SCAN")
    equal(sorted(client.scan_iter(f"{name}:*", count=7)), expected, "SCAN COUNT 7")
    equal(list(client.scan_iter(f"{name}:*", _type="list")), [], "SCAN TYPE list")
    members = {str(index): index for index in range(1000)}
    kinds = ["hash", "set", "sorted"]
    many_hash, many_set, many_sorted = many = [f"{{{name}}}:{kind}" for kind in kinds]
    client.delete(*many)
    client.hset(many_hash, mapping=members)
    client.sadd(many_set, *members)
    client.zadd(many_sorted, members)
    expected = {key.encode(): b"%d" % value for key, value in members.items()}
    equal(dict(client.hscan_iter(many_hash)), expected, "HSCAN")
    equal(set(client.sscan_iter(many_set)), set(expected), "SSCAN")
    scores = {key: int(value) for key, value in client.zscan_iter(many_sorted)}
    equal(scores, {key: int(value) for key, value in expected.items()}, "ZSCAN")
    client.delete(*keys, *many)
    equal(list(client.scan_iter(f"{name}:*")), [], "SCAN of nothing")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
