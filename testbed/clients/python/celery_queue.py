"""A queue of Celery through the proxy: `celery_queue.py worker|client HOST PORT`.

The worker works until it is stopped, the client ends when it has what it wants.

Celery's broker moves messages between its keys in transactions, and a chord counts in several keys.
The hash tag of the prefix puts them into one slot, as any Redis Cluster needs it; nothing else is
set.
"""

import sys

from celery import Celery, chain, chord, group

PATIENCE = 90

role, host, port = sys.argv[1:]
url = f"redis://{host}:{port}"
app = Celery("queue", broker=url, backend=url)
one_slot = {"global_keyprefix": "{celery}"}
app.conf.broker_transport_options = one_slot
app.conf.result_backend_transport_options = one_slot


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True)
def third_try(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task
def fail():
    raise ValueError("as it was told")


def client():
    results = [add.delay(index, 1) for index in range(30)]
    got = [result.get(PATIENCE) for result in results]
    equal(got, [index + 1 for index in range(30)], "results of tasks")

    equal(chain(add.s(1, 2), add.s(4)).delay().get(PATIENCE), 7, "a chain")
    doubled = group(add.s(index, index) for index in range(10))
    equal(doubled.delay().get(PATIENCE), [2 * index for index in range(10)], "a group")
    equal(chord(doubled)(total.s()).get(PATIENCE), 90, "a chord")
    equal(add.apply_async((1, 1), countdown=0.5).get(PATIENCE), 2, "a task for later")
    equal(third_try.delay().get(PATIENCE), 2, "retries")
    try:
        got = fail.delay().get(PATIENCE)
    except ValueError as error:
        equal(str(error), "as it was told", "a task's error")
    else:
        raise AssertionError(f"{got!r} instead of an error")

    # Asked and answered by publish/subscribe.
    [answer] = app.control.ping(timeout=PATIENCE, limit=1)
    equal([*answer.values()], [{"ok": "pong"}], "a worker's answer to a ping")


def equal(got, expected, what):
    assert got == expected, f"{what}: {got!r} instead of {expected!r}"


if role == "worker":
    app.worker_main(["worker", "--concurrency", "2"])
else:
    client()
