// ioredis' publish/subscribe with its default options: `node ioredis-pubsub.mjs HOST PORT`.

import { deepEqual, equal, ok } from "node:assert/strict";
import Redis from "ioredis";

const [host, port] = process.argv.slice(2);
const MESSAGES = 200;

function connect(options) {
  const client = new Redis(Number(port), host, options);
  client.on("error", (error) => {
    throw error;
  });
  return client;
}

/** Collects what a client hears by one of its events, until there are so many. */
function heard(client, event, count) {
  return new Promise((resolve) => {
    const messages = [];
    client.on(event, (...message) => {
      if (messages.push(message) === count) resolve(messages);
    });
  });
}

for (const [name, options] of [["ioredis", {}], ["ioredis-resp2", { protocol: 2 }]]) {
  console.log(name);
  const [subscriber, publisher] = [connect(options), connect(options)];
  const channel = `${name}:pubsub`;
  equal(await subscriber.subscribe(channel, `${channel}:more`), 2, "SUBSCRIBE");
  equal(await subscriber.psubscribe(`${name}:p*`), 3, "PSUBSCRIBE");
  const messages = heard(subscriber, "message", MESSAGES);
  const byPattern = heard(subscriber, "pmessage", MESSAGES);
  for (let number = 0; number < MESSAGES; number++) {
    ok((await publisher.publish(channel, `${number}`)) >= 1, "PUBLISH counts its receivers");
  }
  const numbers = Array.from({ length: MESSAGES }, (_, number) => `${number}`);
  deepEqual(await messages, numbers.map((number) => [channel, number]));
  deepEqual(await byPattern, numbers.map((number) => [`${name}:p*`, channel, number]));

  equal(await subscriber.ssubscribe(`${channel}:shard`), 1, "SSUBSCRIBE");
  const sharded = heard(subscriber, "smessage", 1);
  ok((await publisher.spublish(`${channel}:shard`, "x")) >= 1, "SPUBLISH counts its receivers");
  deepEqual(await sharded, [[`${channel}:shard`, "x"]]);

  // By name: in RESP3, ioredis waits for ever for the end of all subscriptions of a kind.
  equal(await subscriber.sunsubscribe(`${channel}:shard`), 0, "SUNSUBSCRIBE");
  equal(await subscriber.punsubscribe(`${name}:p*`), 2, "PUNSUBSCRIBE");
  equal(await subscriber.unsubscribe(channel, `${channel}:more`), 0, "UNSUBSCRIBE");
  equal(await subscriber.set(channel, "x"), "OK", "SET of a client that was a subscriber");
  subscriber.disconnect();
  publisher.disconnect();
}
