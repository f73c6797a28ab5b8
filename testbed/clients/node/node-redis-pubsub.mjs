// node-redis' publish/subscribe through the proxy: `node node-redis-pubsub.mjs HOST PORT`.

import { deepEqual, equal, ok } from "node:assert/strict";
import { createClient } from "redis";

const [host, port] = process.argv.slice(2);
const MESSAGES = 200;

async function connect(options) {
  const client = createClient({ url: `redis://${host}:${port}`, ...options });
  client.on("error", (error) => {
    throw error;
  });
  return await client.connect();
}

/** A listener, and what it has heard when there are so many. */
function ear(count) {
  const messages = [];
  let done;
  const heard = new Promise((resolve) => (done = resolve));
  const listener = (message, channel) => {
    if (messages.push([message, channel]) === count) done(messages);
  };
  return [listener, heard];
}

for (const [name, options] of [["node-redis", {}], ["node-redis-resp2", { RESP: 2 }]]) {
  console.log(name);
  const [subscriber, publisher] = [await connect(options), await connect(options)];
  const channel = `${name}:pubsub`;
  const [listener, messages] = ear(MESSAGES);
  const [patternListener, byPattern] = ear(MESSAGES);
  await subscriber.subscribe(channel, listener);
  await subscriber.pSubscribe(`${name}:p*`, patternListener);
  for (let number = 0; number < MESSAGES; number++) {
    ok((await publisher.publish(channel, `${number}`)) >= 1, "PUBLISH counts its receivers");
  }
  const expected = Array.from({ length: MESSAGES }, (_, number) => [`${number}`, channel]);
  deepEqual(await messages, expected);
  deepEqual(await byPattern, expected);

  const [shardListener, sharded] = ear(1);
  await subscriber.sSubscribe(`${channel}:shard`, shardListener);
  ok((await publisher.sPublish(`${channel}:shard`, "x")) >= 1, "SPUBLISH counts its receivers");
  deepEqual(await sharded, [["x", `${channel}:shard`]]);

  await subscriber.sUnsubscribe();
  await subscriber.pUnsubscribe();
  await subscriber.unsubscribe();
  // In RESP2, node-redis hands out buffers from then on.
  equal(`${await subscriber.set(channel, "x")}`, "OK", "SET of a client that was a subscriber");
  await subscriber.close();
  await publisher.close();
}
