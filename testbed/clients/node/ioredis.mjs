// ioredis with its default options through the proxy: `node ioredis.mjs HOST PORT`.
//
// Everything is done twice: in RESP3, which ioredis speaks by itself, and in RESP2. The keys that
// `manyKeys` writes stay, so that the caller can see on which nodes they are.

import { deepEqual, equal, notEqual, ok, rejects } from "node:assert/strict";
import { once } from "node:events";
import Redis from "ioredis";

const [host, port] = process.argv.slice(2);

// What RESP puts between values, and every byte.
const BINARY = Buffer.from([...Buffer.from("\r\n$-1\r\n\0"), ...Array(256).keys()]);

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
    const client = connect(options);
    await connection(client, options);
    for (const check of [manyKeys, types, values, expiry, pipeline, errors, refused]) {
      await check(client, `${name}:${check.name}`);
    }
    await closed(client, `${name}:closed`);
    client.disconnect();
  }
  await sideBySide();
}

/** The error that Redis or the proxy has answered, as ioredis throws it. */
function reply(text) {
  return (error) => error.name === "ReplyError" && error.message.includes(text);
}

async function connection(client, options) {
  const hello = await client.call("HELLO");
  const fields = Array.isArray(hello) ? pairs(hello) : hello;
  equal(fields.proto, options.protocol ?? 3, "the protocol");
  equal(fields.id, await client.client("ID"), "CLIENT ID and HELLO's");
  equal(await client.client("GETNAME"), null, "CLIENT GETNAME of a client without a name");
  equal(await client.client("SETNAME", "renamed"), "OK", "CLIENT SETNAME");
  equal(await client.client("GETNAME"), "renamed", "CLIENT GETNAME");
  const other = connect({ ...options, connectionName: "named" });
  equal(await other.client("GETNAME"), "named", "CLIENT GETNAME");
  notEqual(await other.client("ID"), await client.client("ID"), "two clients have one CLIENT ID");
  equal(await other.quit(), "OK", "QUIT");
  equal(await client.ping(), "PONG", "PING");
  equal(await client.ping("x"), "x", "PING x");
  equal(await client.echo("x"), "x", "ECHO");
  equal(await client.select(0), "OK", "SELECT 0");
}

function pairs(list) {
  return Object.fromEntries(list.flatMap((name, i) => (i % 2 ? [] : [[name, list[i + 1]]])));
}

async function manyKeys(client, prefix) {
  const keys = Array.from({ length: 300 }, (_, index) => `${prefix}:${index}`);
  const values = new Map(keys.map((key) => [key, `value of ${key}`]));
  const missing = `${prefix}:missing`;
  for (const key of keys.slice(0, 100)) equal(await client.set(key, values.get(key)), "OK", "SET");
  equal(await client.mset(new Map([...values].slice(100))), "OK", "MSET");
  for (const key of keys) equal(await client.get(key), values.get(key), "GET");
  deepEqual(await client.mget(missing, ...keys, missing), [null, ...values.values(), null], "MGET");
  equal(await client.exists(missing, ...keys, keys[0]), 301, "EXISTS");
  equal(await client.touch(missing, ...keys), 300, "TOUCH");
  equal(await client.del(missing, ...keys.slice(0, 50)), 50, "DEL");
  equal(await client.unlink(...keys.slice(0, 100)), 50, "UNLINK");
  equal(await client.exists(...keys), 200, "EXISTS");
  equal(await client.mset(values), "OK", "MSET");
}

async function types(client, prefix) {
  for (let index = 0; index < 20; index++) {
    const key = `${prefix}:${index}`;
    await client.del(key);
    equal(await client.hset(key, { a: 1, b: 2 }), 2, "HSET");
    deepEqual({ ...(await client.hgetall(key)) }, { a: "1", b: "2" }, "HGETALL");
    deepEqual(await client.hmget(key, "b", "missing"), ["2", null], "HMGET");
    equal(await client.hincrbyfloat(key, "a", 0.5), "1.5", "HINCRBYFLOAT");

    await client.del(key);
    equal(await client.rpush(key, "a", "b", "c"), 3, "RPUSH");
    deepEqual(await client.lrange(key, 0, -1), ["a", "b", "c"], "LRANGE");
    equal(await client.lpop(key), "a", "LPOP");
    equal(await client.lpos(key, "missing"), null, "LPOS");

    await client.del(key);
    equal(await client.sadd(key, "a", "b", "a"), 2, "SADD");
    deepEqual((await client.smembers(key)).sort(), ["a", "b"], "SMEMBERS");
    equal(await client.sismember(key, "c"), 0, "SISMEMBER");

    await client.del(key);
    equal(await client.zadd(key, 1.5, "a", 2, "b"), 2, "ZADD");
    equal(await client.zscore(key, "a"), "1.5", "ZSCORE");
    deepEqual(await client.zrange(key, 0, -1, "WITHSCORES"), ["a", "1.5", "b", "2"], "ZRANGE");

    await client.del(key);
    const first = await client.xadd(key, "*", "n", 1);
    const second = await client.xadd(key, "*", "n", 2);
    const entries = [[first, ["n", "1"]], [second, ["n", "2"]]];
    deepEqual(await client.xrange(key, "-", "+"), entries, "XRANGE");
    deepEqual(await client.xread("STREAMS", key, first), [[key, entries.slice(1)]], "XREAD");
    equal(await client.xread("STREAMS", key, second), null, "XREAD of nothing");

    const script = "redis.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], 7}";
    deepEqual(await client.eval(script, 1, key, "x"), [key, 7], "EVAL");
    equal(await client.get(key), "x", "GET of what EVAL has set");
  }
}

async function values(client, prefix) {
  const key = Buffer.concat([Buffer.from(prefix), BINARY]);
  await client.del(prefix, key);
  equal(await client.set(key, BINARY), "OK", "SET");
  deepEqual(await client.getBuffer(key), BINARY, "GET of every byte");
  deepEqual(await client.mgetBuffer(key, prefix), [BINARY, null], "MGET of every byte");
  equal(await client.set(key, ""), "OK", "SET");
  equal(await client.get(key), "", "GET of nothing");
  const large = Buffer.alloc(5_000_000, BINARY);
  equal(await client.set(prefix, large), "OK", "SET of 5 MB");
  ok(large.equals(await client.getBuffer(prefix)), "GET of 5 MB");
  const [empty, again] = await client.mgetBuffer(key, prefix);
  ok(empty.length === 0 && large.equals(again), "MGET of 5 MB");
  await client.del(prefix, key);
  equal(await client.incr(prefix), 1, "INCR");
  equal(await client.incrby(prefix, 41), 42, "INCRBY");
  equal(await client.decr(prefix), 41, "DECR");
  equal(await client.incrbyfloat(prefix, 0.5), "41.5", "INCRBYFLOAT");
}

async function expiry(client, key) {
  equal(await client.set(key, "x", "EX", 100), "OK", "SET EX");
  const left = await client.ttl(key);
  ok(0 < left && left <= 100, `TTL: ${left}`);
  equal(await client.persist(key), 1, "PERSIST");
  equal(await client.ttl(key), -1, "TTL");
  equal(await client.pexpire(key, 1), 1, "PEXPIRE");
  const deadline = Date.now() + 10_000;
  while ((await client.get(key)) !== null) {
    ok(Date.now() < deadline, "a key lives on after its time");
  }
  equal(await client.ttl(key), -2, "TTL");
}

async function pipeline(client, prefix) {
  const batch = client.pipeline();
  const expected = [];
  const name = (index) => `${prefix}:${index % 100}`;
  await client.del(...Array.from({ length: 100 }, (_, index) => name(index)));
  const turns = [
    (key, index) => [batch.set(key, index), "OK"],
    (key, index) => [batch.incr(key), index - 99],
    (key, index) => [batch.get(key), `${index - 199}`],
    (key, index) => [
      batch.mget(key, name(index + 1)),
      [index, index + 1].map((number) => `${(number % 100) + 1}`),
    ],
    (key) => [batch.lpush(key, "x"), Error],
    (key, index) => [batch.append(key, "abc"), `${index - 499}`.length + 3],
    (key) => [batch.del(key, prefix), 1],
    (key) => [batch.rpush(key, "x", "y"), 2],
    (key) => [batch.lrange(key, 0, -1), ["x", "y"]],
    (key) => [batch.exists(key, key, prefix), 2],
  ];
  for (let index = 0; index < 1000; index++) {
    expected.push(turns[Math.floor(index / 100)](name(index), index)[1]);
  }
  const replies = await batch.exec();
  equal(replies.length, 1000, "replies to a pipeline");
  replies.forEach(([error, value], index) => {
    if (expected[index] === Error) ok(reply("WRONGTYPE")(error), `reply ${index} of a pipeline`);
    else deepEqual([error, value], [null, expected[index]], `reply ${index} of a pipeline`);
  });
}

async function errors(client, key) {
  await client.set(key, "x");
  await rejects(client.lpush(key, "x"), reply("WRONGTYPE Operation against"));
  await rejects(client.incr(key), reply("ERR value is not an integer"));
  await rejects(client.rename(key, `${key}2`), reply("CROSSSLOT Keys in request don't hash"));
  await rejects(client.call("NOSUCH", "x"), reply("ERR unknown command 'NOSUCH'"));
  await rejects(client.call("GET"), reply("ERR wrong number of arguments for 'get' command"));
  equal(await client.get(key), "x", "GET after errors");
}

async function refused(client, key) {
  const before = await client.client("ID");
  const inClusters = reply("SWAPDB is not allowed in cluster mode");
  await rejects(client.call("SWAPDB", "0", "1"), inClusters);
  equal(await client.client("ID"), before, "CLIENT ID, of the same connection");
}

async function closed(client, key) {
  const before = await client.client("ID");
  const ended = once(client, "end");
  equal(await client.quit(), "OK", "QUIT");
  await ended;
  await client.connect();
  equal(await client.set(key, "x"), "OK", "SET after a reconnect");
  notEqual(await client.client("ID"), before, "CLIENT ID of the next connection");
}

/** Two clients of different versions, each with what its version of HGETALL is. */
async function sideBySide() {
  const key = "ioredis:sideBySide";
  const hammer = async (options, expected) => {
    const client = connect(options);
    await client.hset(key, "a", "1");
    for (let turn = 0; turn < 500; turn++) {
      // Not `hgetall`, which makes an object of both.
      const got = await client.call("HGETALL", key);
      deepEqual(Array.isArray(got) ? got : { ...got }, expected, "HGETALL side by side");
    }
    client.disconnect();
  };
  await Promise.all([
    hammer({ protocol: 2 }, ["a", "1"]),
    // ioredis would make a list of the map, as if it were RESP2's.
    hammer({ protocol: 3, replyMapping: "resp3" }, { a: "1" }),
  ]);
}

await main();
