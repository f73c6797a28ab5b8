// What applications build on node-redis, with its default options:
// `node node-redis-patterns.mjs HOST PORT`.
//
// Everything is done twice: in RESP3, which node-redis speaks by itself, and in RESP2.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import { createClientPool, defineScript, MultiErrorReply, WatchError } from "redis";

const [host, port] = process.argv.slice(2);
const PATIENCE = 60;

// At most ARGV[1] calls in a window of ARGV[2] milliseconds that begins with the first.
const RATE_LIMIT = `
  local calls = redis.call('INCR', KEYS[1])
  if calls == 1 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
  return calls <= tonumber(ARGV[1]) and 1 or 0
`;

// Ends a lock, if it is ours.
const UNLOCK = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0";

const scripts = {
  add: script("return redis.call('APPEND', KEYS[1], ARGV[1])"),
  allowed: script(RATE_LIMIT),
  unlock: script(UNLOCK),
};

function script(lua) {
  return defineScript({
    SCRIPT: lua,
    NUMBER_OF_KEYS: 1,
    parseCommand(parser, key, ...args) {
      parser.pushKey(key);
      parser.push(...args.map(String));
    },
    transformReply: (reply) => reply,
  });
}

async function main() {
  for (const [name, options] of [["node-redis", {}], ["node-redis-resp2", { RESP: 2 }]]) {
    console.log(name);
    const socket = { host, port: Number(port) };
    const pool = createClientPool({ socket, scripts, ...options }, { minimum: 4 });
    pool.on("error", (error) => {
      throw error;
    });
    await pool.connect();
    const checks = [transactions, watchedKeys, blockingPops, locks, forgotten, rateLimiter, scans];
    for (const check of checks) {
      console.log(" ", check.name);
      await check(pool, `${name}:${check.name}`);
    }
    await pool.close();
  }
}

/** Keys in as many slots, and so on all nodes. */
function keysOf(name, count) {
  return Array.from({ length: count }, (_, index) => `${name}:${index}`);
}

/** Does `work` in four clients of their own at the same time. */
function together(pool, work) {
  return Promise.all(Array.from({ length: 4 }, () => pool.execute(work)));
}

async function transactions(pool, name) {
  for (const key of keysOf(name, 20)) {
    const replies = await pool.multi().set(key, "1").incr(key).get(key).exec();
    deepEqual(replies, ["OK", 2, "2"], "EXEC");
    const failing = pool.multi().incr(key).lPush(key, "x").incr(key).exec();
    await rejects(failing, (error) => {
      ok(error instanceof MultiErrorReply && error.replies[1].message.startsWith("WRONGTYPE"));
      deepEqual([error.replies[0], error.replies[2]], [3, 4], "replies around an error");
      return true;
    });
  }
}

async function watchedKeys(pool, name) {
  await pool.execute(async (client) => {
    await client.watch(name);
    await pool.set(name, "0");
    await rejects(client.multi().set(name, "7").exec(), WatchError, "a watched key has changed");
  });
  await together(pool, async (client) => {
    for (let done = 0; done < 10; ) {
      await client.watch(name);
      const value = Number(await client.get(name));
      try {
        await client.multi().set(name, `${value + 1}`).exec();
        done++;
      } catch (error) {
        // Another client came in between.
        if (!(error instanceof WatchError)) throw error;
      }
    }
  });
  equal(await pool.get(name), "40", "a counter of four clients");
}

async function blockingPops(pool, name) {
  equal(await pool.blPop(name, 0.05), null, "BLPOP of nothing");
  const queues = [0, 1, 2].map((index) => `{${name}}:${index}`);
  let popped = pool.blPop(queues, PATIENCE);
  await pool.rPush(queues[2], "x");
  deepEqual({ ...(await popped) }, { key: queues[2], element: "x" }, "BLPOP");
  popped = pool.blMove(queues[0], queues[1], "LEFT", "RIGHT", PATIENCE);
  await pool.rPush(queues[0], "y");
  equal(await popped, "y", "BLMOVE");
  popped = pool.bzPopMin(name, PATIENCE);
  await pool.zAdd(name, { value: "x", score: 1.5 });
  deepEqual({ ...(await popped) }, { key: name, value: "x", score: 1.5 }, "BZPOPMIN");
  popped = pool.xRead({ key: name, id: "0" }, { BLOCK: PATIENCE * 1000 });
  await pool.xAdd(name, "1-1", { n: "1" });
  equal((await popped)[0].messages[0].id, "1-1", "XREAD");
  await pool.del(name);

  // Each of 40 jobs goes to one of four workers.
  const done = together(pool, async (worker) => {
    const jobs = [];
    for (;;) {
      const { element: job } = await worker.blPop(name, PATIENCE);
      if (job === "stop") return jobs;
      jobs.push(Number(job));
    }
  });
  for (let job = 0; job < 40; job++) await pool.rPush(name, `${job}`);
  await pool.rPush(name, Array(4).fill("stop"));
  const jobs = (await done).flat().sort((a, b) => a - b);
  deepEqual(jobs, Array.from({ length: 40 }, (_, job) => job), "jobs of four workers");
}

async function locks(pool, name) {
  const time = { expiration: { type: "PX", value: PATIENCE * 1000 }, condition: "NX" };
  for (const key of keysOf(name, 20)) {
    equal(await pool.set(key, "me", time), "OK", "a free lock");
    equal(await pool.set(key, "you", time), null, "a lock that another has");
    equal(await pool.unlock(key, "you"), 0, "a lock that another releases");
    equal(await pool.unlock(key, "me"), 1, "a lock that is released");
  }
  const [counter, lock] = [`${name}:counter`, `${name}:lock`];
  await together(pool, async (client) => {
    const me = `${await client.clientId()}`;
    for (let done = 0; done < 5; ) {
      if ((await client.set(lock, me, time)) === null) {
        await setTimeout(5);
        continue;
      }
      await client.set(counter, `${Number(await client.get(counter)) + 1}`);
      equal(await client.unlock(lock, me), 1, "our own lock");
      done++;
    }
  });
  equal(await pool.get(counter), "20", "a counter under a lock");
}

async function forgotten(pool, name) {
  const keys = keysOf(name, 20);
  for (const key of keys) equal(await pool.add(key, "abc"), 3, "a script");
  // Now it is unknown to each node and has to be told again.
  await pool.execute((client) => client.scriptFlush());
  for (const key of keys) equal(await pool.add(key, "abc"), 6, "a script that was forgotten");
  await pool.execute((client) => client.scriptFlush());
  deepEqual(await Promise.all(keys.map((key) => pool.add(key, "abc"))), keys.map(() => 9));
  const replies = await pool.multi().get(keys[0]).add(keys[0], "abc").exec();
  deepEqual(replies, ["abcabcabc", 12], "a script in a transaction");
}

async function rateLimiter(pool, name) {
  for (const user of keysOf(name, 5)) {
    const calls = await together(pool, (client) =>
      Promise.all(Array.from({ length: 5 }, () => client.allowed(user, 7, PATIENCE * 1000))),
    );
    equal(calls.flat().filter(Boolean).length, 7, "calls that were allowed");
  }
}

async function scans(pool, name) {
  const keys = keysOf(name, 300);
  await pool.mSet(keys.map((key) => [key, "x"]));
  const members = Array.from({ length: 1000 }, (_, index) => `${index}`);
  const [hash, set] = ["hash", "set"].map((kind) => `{${name}}:${kind}`);
  await pool.hSet(hash, Object.fromEntries(members.map((member) => [member, "x"])));
  await pool.sAdd(set, members);
  await pool.execute(async (client) => {
    const found = await collect(client.scanIterator({ MATCH: `${name}:*` }));
    deepEqual(found.sort(), keys.toSorted(), "SCAN");
    const lists = client.scanIterator({ MATCH: `${name}:*`, TYPE: "list" });
    deepEqual(await collect(lists), [], "SCAN TYPE");
    const fields = (await collect(client.hScanIterator(hash))).map(({ field }) => field);
    deepEqual(new Set(fields), new Set(members), "HSCAN");
    deepEqual(new Set(await collect(client.sScanIterator(set))), new Set(members), "SSCAN");
  });
}

async function collect(iterator) {
  const all = [];
  for await (const some of iterator) all.push(...some);
  return all;
}

await main();
