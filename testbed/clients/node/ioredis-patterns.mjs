// What applications build on ioredis, with its default options:
// `node ioredis-patterns.mjs HOST PORT`.
//
// Everything is done twice: in RESP3, which ioredis speaks by itself, and in RESP2.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import Redis from "ioredis";
import { ExecutionError, ResourceLockedError, default as Redlock } from "redlock";

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

function connect(options) {
  const client = new Redis(Number(port), host, options);
  client.on("error", (error) => {
    throw error;
  });
  return client;
}

async function main() {
  for (const [name, options] of [["ioredis", {}], ["ioredis-resp2", { protocol: 2 }]]) {
    console.log(name);
    const clients = Array.from({ length: 4 }, () => connect(options));
    const checks = [transactions, watchedKeys, blockingPops, locks, scripts, rateLimiter, scans];
    for (const check of checks) {
      console.log(" ", check.name);
      await check(clients, `${name}:${check.name}`);
    }
    for (const client of clients) client.disconnect();
  }
}

/** Keys in as many slots, and so on all nodes. */
function keysOf(name, count) {
  return Array.from({ length: count }, (_, index) => `${name}:${index}`);
}

function together(clients, work) {
  return Promise.all(clients.map(work));
}

async function transactions([client], name) {
  for (const key of keysOf(name, 20)) {
    const replies = await client.multi().set(key, 1).incr(key).lpush(key, "x").get(key).exec();
    deepEqual([replies[0], replies[1], replies[3]], [[null, "OK"], [null, 2], [null, "2"]], "EXEC");
    ok(replies[2][0].message.startsWith("WRONGTYPE"), "an error in a transaction");
    equal(await client.multi({ pipeline: false }), "OK", "MULTI");
    equal(await client.incr(key), "QUEUED", "INCR in a transaction");
    deepEqual(await client.exec(), [[null, 3]], "EXEC");
    await client.multi({ pipeline: false });
    await client.incr(key);
    equal(await client.discard(), "OK", "DISCARD");
    equal(await client.get(key), "3", "GET of what no transaction has incremented");
  }
}

async function watchedKeys(clients, name) {
  await clients[0].watch(name);
  await clients[1].set(name, 0);
  equal(await clients[0].multi().set(name, 7).exec(), null, "EXEC after a watched key has changed");
  await together(clients, async (client) => {
    for (let done = 0; done < 10; ) {
      await client.watch(name);
      const value = Number(await client.get(name));
      // Null if another client came in between.
      if (await client.multi().set(name, value + 1).exec()) done++;
    }
  });
  equal(await clients[0].get(name), "40", "a counter of four clients");
}

async function blockingPops([waiting, client, ...workers], name) {
  equal(await waiting.blpop(name, 0.05), null, "BLPOP of nothing");
  const queues = [0, 1, 2].map((index) => `{${name}}:${index}`);
  let popped = waiting.blpop(...queues, PATIENCE);
  await client.rpush(queues[2], "x");
  deepEqual(await popped, [queues[2], "x"], "BLPOP");
  popped = waiting.blmove(queues[0], queues[1], "LEFT", "RIGHT", PATIENCE);
  await client.rpush(queues[0], "y");
  equal(await popped, "y", "BLMOVE");
  deepEqual(await waiting.brpop(...queues, PATIENCE), [queues[1], "y"], "BRPOP");
  popped = waiting.bzpopmin(name, PATIENCE);
  await client.zadd(name, 1.5, "x");
  deepEqual(await popped, [name, "x", "1.5"], "BZPOPMIN");
  popped = waiting.xread("BLOCK", PATIENCE * 1000, "STREAMS", name, 0);
  await client.xadd(name, "1-1", "n", 1);
  deepEqual(await popped, [[name, [["1-1", ["n", "1"]]]]], "XREAD");
  await client.del(name);

  // Each of 40 jobs goes to one of the workers.
  const done = together([waiting, ...workers], async (worker) => {
    const jobs = [];
    for (;;) {
      const [, job] = await worker.blpop(name, PATIENCE);
      if (job === "stop") return jobs;
      jobs.push(Number(job));
    }
  });
  for (let job = 0; job < 40; job++) await client.rpush(name, job);
  await client.rpush(name, ...Array(1 + workers.length).fill("stop"));
  const jobs = (await done).flat().sort((a, b) => a - b);
  deepEqual(jobs, Array.from({ length: 40 }, (_, job) => job), "jobs of all workers");
}

/** Redlock with one server, as applications of one Redis use it. */
async function locks(clients, name) {
  const time = PATIENCE * 1000;
  const [client] = clients;
  const once = new Redlock([client], { retryCount: 0 });
  for (const key of keysOf(name, 20)) {
    let lock = await once.acquire([key], time);
    ok(await isTaken(once.acquire([key], time)), "a lock that another has");
    lock = await lock.extend(2 * time);
    ok((await client.pttl(key)) > time, "a lock that was extended");
    await lock.release();
    equal(await client.exists(key), 0, "a lock that was released");
    lock = await once.acquire([key], time);
    await client.del(key);
    await rejects(lock.release(), ExecutionError, "a lock that is lost");
  }
  const counter = `${name}:counter`;
  await client.set(counter, 0);
  await together(clients, async (client) => {
    const redlock = new Redlock([client], { retryCount: -1, retryDelay: 5, retryJitter: 5 });
    for (let done = 0; done < 5; done++) {
      await redlock.using([`${name}:lock`], time, async () => {
        await client.set(counter, Number(await client.get(counter)) + 1);
      });
    }
  });
  equal(await client.get(counter), "20", "a counter under a lock");
}

/** Whether nobody got the lock, because another has it. */
async function isTaken(acquisition) {
  const error = await acquisition.then(() => undefined, (error) => error);
  const [attempt] = await Promise.all(error.attempts);
  return [...attempt.votesAgainst.values()].every((vote) => vote instanceof ResourceLockedError);
}

async function scripts([client], name) {
  const lua = "return redis.call('APPEND', KEYS[1], ARGV[1])";
  client.defineCommand("add", { numberOfKeys: 1, lua });
  const keys = keysOf(name, 20);
  for (const key of keys) equal(await client.add(key, "abc"), 3, "a script");
  // Now it is unknown to each node and has to be told again.
  equal(await client.script("FLUSH"), "OK", "SCRIPT FLUSH");
  for (const key of keys) equal(await client.add(key, "abc"), 6, "a script that was forgotten");
  await client.script("FLUSH");
  const batch = client.pipeline();
  for (const key of keys) batch.add(key, "abc");
  deepEqual(await batch.exec(), keys.map(() => [null, 9]), "scripts in a pipeline");
  // In a transaction ioredis trusts that the script is known.
  const replies = await client.multi().get(keys[0]).add(keys[0], "abc").exec();
  deepEqual(replies, [[null, "abcabcabc"], [null, 12]], "a script in a transaction");
}

async function rateLimiter(clients, name) {
  for (const client of clients) {
    client.defineCommand("allowed", { numberOfKeys: 1, lua: RATE_LIMIT });
  }
  for (const user of keysOf(name, 5)) {
    const calls = await together(clients, (client) =>
      Promise.all(Array.from({ length: 5 }, () => client.allowed(user, 7, PATIENCE * 1000))),
    );
    equal(calls.flat().filter(Boolean).length, 7, "calls that were allowed");
  }
}

async function scans([client], name) {
  const keys = keysOf(name, 300);
  await client.mset(...keys.flatMap((key) => [key, "x"]));
  const found = await collect(client.scanStream({ match: `${name}:*` }));
  deepEqual(found.sort(), keys.toSorted(), "SCAN");
  const lists = client.scanStream({ match: `${name}:*`, type: "list" });
  deepEqual(await collect(lists), [], "SCAN TYPE");
  const members = Array.from({ length: 1000 }, (_, index) => `${index}`);
  const [hash, set] = ["hash", "set"].map((kind) => `{${name}}:${kind}`);
  await client.hset(hash, Object.fromEntries(members.map((member) => [member, "x"])));
  await client.sadd(set, ...members);
  const fields = await collect(client.hscanStream(hash));
  deepEqual(new Set(fields), new Set([...members, "x"]), "HSCAN");
  deepEqual(new Set(await collect(client.sscanStream(set))), new Set(members), "SSCAN");
}

async function collect(stream) {
  const all = [];
  for await (const some of stream) all.push(...some);
  return all;
}

await main();
