"""redis-py's publish/subscribe with default options through the proxy: `pubsub.py HOST PORT`.

Everything is done twice: in RESP3, which redis-py speaks by itself, and in RESP2.
"""

import sys
import threading

import redis

CLIENTS = 20
MESSAGES = 200
PATIENCE = 60


def main(host, port):
    for name, options in ("redis-py", {}), ("redis-py-resp2", {"protocol": 2}):
        print(name)
        client = redis.Redis(host, port, **options)
        for check in kinds, many_subscribers, handlers, shards, goes_on_with_commands:
            check(client, f"{name}:{check.__name__}")
        client.close()


def equal(got, expected, what):
    assert got == expected, f"{what}: {got!r} instead of {expected!r}"


def following(subscriber, count=1):
    """The next messages, confirmations too, as (type, pattern, channel, data)."""
    got = []
    while len(got) < count:
        message = subscriber.get_message(timeout=PATIENCE)
        assert message is not None, f"no message in {PATIENCE} s"
        got.append((message["type"], message["pattern"], message["channel"], message["data"]))
    return got


def kinds(client, name):
    channel, pattern = name.encode(), name.encode() + b"*"
    with client.pubsub() as subscriber:
        subscriber.subscribe(name, name + ":more")
        subscriber.psubscribe(name + "*")
        confirmations = [
            ("subscribe", None, channel, 1),
            ("subscribe", None, channel + b":more", 2),
            ("psubscribe", None, pattern, 3),
        ]
        equal(following(subscriber, 3), confirmations, "confirmations")
        assert client.publish(name, "hello") >= 2, "PUBLISH counts its receivers"
        messages = [
            ("message", None, channel, b"hello"),
            ("pmessage", pattern, channel, b"hello"),
        ]
        equal(sorted(following(subscriber, 2)), messages, "messages")
        subscriber.ping()
        equal(following(subscriber)[0][0], "pong", "PING of a subscriber")
        subscriber.unsubscribe(name)
        equal(following(subscriber), [("unsubscribe", None, channel, 2)], "UNSUBSCRIBE")
        client.publish(name, b"\r\n$-1\r\n\0\xff")
        equal(following(subscriber), [("pmessage", pattern, channel, b"\r\n$-1\r\n\0\xff")], "bytes")


def many_subscribers(client, name):
    subscribers = [client.pubsub() for _ in range(CLIENTS)]
    for subscriber in subscribers:
        subscriber.subscribe(name)
        equal(following(subscriber)[0][0], "subscribe", "the confirmation")
    with client.pipeline(transaction=False) as batch:
        for number in range(MESSAGES):
            batch.publish(name, number)
        batch.execute()
    expected = [("message", None, name.encode(), b"%d" % number) for number in range(MESSAGES)]
    for subscriber in subscribers:
        equal(following(subscriber, MESSAGES), expected, "messages of one publisher")
        subscriber.close()


def handlers(client, name):
    heard, done = [], threading.Event()

    def hear(message):
        heard.append(message["data"])
        if message["data"] == b"last":
            done.set()

    with client.pubsub() as subscriber:
        subscriber.subscribe(**{name: hear})
        equal(following_subscribed(subscriber), True, "the confirmation")
        thread = subscriber.run_in_thread(sleep_time=1, daemon=True)
        for data in "first", "last":
            client.publish(name, data)
        assert done.wait(PATIENCE), f"heard {heard!r}"
        thread.stop()
        thread.join(PATIENCE)
    equal(heard, [b"first", b"last"], "what a handler heard")


def following_subscribed(subscriber):
    return following(subscriber)[0][0] == "subscribe"


def shards(client, name):
    channels = [f"{name}:{number}" for number in range(20)]
    with client.pubsub() as subscriber:
        for channel in channels:
            subscriber.execute_command("SSUBSCRIBE", channel)
        for number, channel in enumerate(channels):
            reply = subscriber.parse_response(block=True)
            equal(list(reply), [b"ssubscribe", channel.encode(), number + 1], "SSUBSCRIBE")
        for channel in channels:
            equal(client.execute_command("SPUBLISH", channel, "x") >= 1, True, "SPUBLISH")
        heard = sorted(bytes(subscriber.parse_response(block=True)[1]) for _ in channels)
        equal(heard, sorted(channel.encode() for channel in channels), "shard channels")


def goes_on_with_commands(client, name):
    client.set(name, "x")
    with client.pubsub() as subscriber:
        subscriber.subscribe(name)
        following(subscriber)
    equal(client.get(name), b"x", "GET of a client whose connections are pooled")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
