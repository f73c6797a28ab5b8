// node-redis' client-side caching through the proxy: `node-redis-caching.mjs HOST PORT`.

import assert from "node:assert/strict";
import { createClient } from "redis";

const KEYS = 300;
const PATIENCE = 60_000;
const [host, port] = process.argv.slice(2);
const socket = { host, port: Number(port) };

const caching = createClient({
  socket,
  RESP: 3,
  clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: "LRU" },
});
const other = createClient({ socket });
for (const client of [caching, other]) {
  client.on("error", (error) => {
    throw error;
  });
  await client.connect();
}

const names = Array.from({ length: KEYS }, (_, number) => `node-redis-caching:${number}`);
for (const name of names) await other.set(name, "before");
for (const name of names) assert.equal(await caching.get(name), "before");
for (const name of names) await other.set(name, "after");
for (const name of names) {
  const deadline = Date.now() + PATIENCE;
  while ((await caching.get(name)) !== "after") {
    assert.ok(Date.now() < deadline, `stale: ${name}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
caching.destroy();
other.destroy();
