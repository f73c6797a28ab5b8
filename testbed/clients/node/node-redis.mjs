// node-redis with its default options through the proxy: `node node-redis.mjs HOST PORT`.
//
// Everything is done twice: in RESP3, which node-redis speaks by itself, and in RESP2. The keys
// that `manyKeys` writes stay, so that the caller can see on which nodes they are.

import { deepEqual, equal, notEqual, ok, rejects } from "node:assert/strict";
import { createClient, ErrorReply, RESP_TYPES } from "redis";

const [host, port] = process.argv.slice(2);

// What RESP puts between values, and every byte.
const BINARY = Buffer.from([...Buffer.from("\r\n$-1\r\n\0"), ...Array(256).keys()]);

async function connect(options) {
  const client = createClient({ socket: { host, port: Number(port) }, ...options });
  client.on("error", (error) => {
    throw error;
  });
  return await client.connect();
}

async function main() {
  for (const [name, options] of [["node-redis", {}], ["node-redis-resp2", { RESP: 2 }]]) {
    console.log(name);
    const client = await connect(options);
    await connection(client, options);
    for (const check of [manyKeys, types, values, expiry, pipeline, errors, refused, closed]) {
      await check(client, `${name}:${check.name}`);
    }
    client.destroy();
  }
  await sideBySide();
}

/** The error that Redis or the proxy has answered, as node-redis throws it. */
function reply(text) {
  return (error) => error instanceof ErrorReply && error.message.includes(text);
}

async function connection(client, options) {
  const hello = await client.hello();
  equal(hello.proto, options.RESP ?? 3, "the protocol");
  equal(hello.id, await client.clientId(), "CLIENT ID and HELLO's");
  equal(await client.clientGetName(), null, "CLIENT GETNAME of a client without a name");
  equal(await client.clientSetName("renamed"), "OK", "CLIENT SETNAME");
  equal(await client.clientGetName(), "renamed", "CLIENT GETNAME");
  const other = await connect({ ...options, name: "named", database: 0 });
  equal(await other.clientGetName(), "named", "CLIENT GETNAME");
  notEqual(await other.clientId(), await client.clientId(), "two clients have one CLIENT ID");
  await other.close();
  equal(await client.ping(), "PONG", "PING");
  equal(await client.ping("x"), "x", "PING x");
  equal(await client.echo("x"), "x", "ECHO");
}

async function manyKeys(client, prefix) {
  const keys = Array.from({ length: 300 }, (_, index) => `${prefix}:${index}`);
  const values = new Map(keys.map((key) => [key, `value of ${key}`]));
  const missing = `${prefix}:missing`;
  for (const key of keys.slice(0, 100)) equal(await client.set(key, values.get(key)), "OK", "SET");
  equal(await client.mSet([...values].slice(100)), "OK", "MSET");
  for (const key of keys) equal(await client.get(key), values.get(key), "GET");
  const found = await client.mGet([missing, ...keys, missing]);
  deepEqual(found, [null, ...values.values(), null], "MGET");
  equal(await client.exists([missing, ...keys, keys[0]]), 301, "EXISTS");
  equal(await client.touch([missing, ...keys]), 300, "TOUCH");
  equal(await client.del([missing, ...keys.slice(0, 50)]), 50, "DEL");
  equal(await client.unlink(keys.slice(0, 100)), 50, "UNLINK");
  equal(await client.exists(keys), 200, "EXISTS");
  equal(await client.mSet([...values]), "OK", "MSET");
}

async function types(client, prefix) {
  for (let index = 0; index < 20; index++) {
    const key = `${prefix}:${index}`;
    await client.del(key);
    equal(await client.hSet(key, { a: 1, b: 2 }), 2, "HSET");
    deepEqual({ ...(await client.hGetAll(key)) }, { a: "1", b: "2" }, "HGETALL");
    deepEqual(await client.hmGet(key, ["b", "missing"]), ["2", null], "HMGET");
    equal(await client.hIncrByFloat(key, "a", 0.5), "1.5", "HINCRBYFLOAT");

    await client.del(key);
    equal(await client.rPush(key, ["a", "b", "c"]), 3, "RPUSH");
    deepEqual(await client.lRange(key, 0, -1), ["a", "b", "c"], "LRANGE");
    equal(await client.lPop(key), "a", "LPOP");
    equal(await client.lPos(key, "missing"), null, "LPOS");

    await client.del(key);
    equal(await client.sAdd(key, ["a", "b", "a"]), 2, "SADD");
    deepEqual((await client.sMembers(key)).sort(), ["a", "b"], "SMEMBERS");
    equal(await client.sIsMember(key, "c"), 0, "SISMEMBER");

    await client.del(key);
    const members = [{ value: "a", score: 1.5 }, { value: "b", score: 2 }];
    equal(await client.zAdd(key, members), 2, "ZADD");
    equal(await client.zScore(key, "a"), 1.5, "ZSCORE");
    const ranged = await client.zRangeWithScores(key, 0, -1);
    deepEqual(ranged.map((member) => ({ ...member })), members, "ZRANGE WITHSCORES");

    await client.del(key);
    const first = await client.xAdd(key, "*", { n: "1" });
    const second = await client.xAdd(key, "*", { n: "2" });
    const shown = (entries) => entries.map(({ id, message }) => [id, message.n]);
    deepEqual(shown(await client.xRange(key, "-", "+")), [[first, "1"], [second, "2"]], "XRANGE");
    const [stream] = await client.xRead({ key, id: first });
    deepEqual([stream.name, shown(stream.messages)], [key, [[second, "2"]]], "XREAD");
    equal(await client.xRead({ key, id: second }), null, "XREAD of nothing");

    const script = "redis.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], 7}";
    deepEqual(await client.eval(script, { keys: [key], arguments: ["x"] }), [key, 7], "EVAL");
    equal(await client.get(key), "x", "GET of what EVAL has set");
  }
}

async function values(client, prefix) {
  const buffers = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  const key = Buffer.concat([Buffer.from(prefix), BINARY]);
  await client.del([prefix, key]);
  equal(await client.set(key, BINARY), "OK", "SET");
  deepEqual(await buffers.get(key), BINARY, "GET of every byte");
  deepEqual(await buffers.mGet([key, prefix]), [BINARY, null], "MGET of every byte");
  equal(await client.set(key, ""), "OK", "SET");
  equal(await client.get(key), "", "GET of nothing");
  const large = Buffer.alloc(5_000_000, BINARY);
  equal(await client.set(prefix, large), "OK", "SET of 5 MB");
  ok(large.equals(await buffers.get(prefix)), "GET of 5 MB");
  const [empty, again] = await buffers.mGet([key, prefix]);
  ok(empty.length === 0 && large.equals(again), "MGET of 5 MB");
  await client.del([prefix, key]);
  equal(await client.incr(prefix), 1, "INCR");
  equal(await client.incrBy(prefix, 41), 42, "INCRBY");
  equal(await client.decr(prefix), 41, "DECR");
  equal(await client.incrByFloat(prefix, 0.5), "41.5", "INCRBYFLOAT");
}

async function expiry(client, key) {
  equal(await client.set(key, "x", { EX: 100 }), "OK", "SET EX");
  const left = await client.ttl(key);
  ok(0 < left && left <= 100, `TTL: ${left}`);
  equal(await client.persist(key), 1, "PERSIST");
  equal(await client.ttl(key), -1, "TTL");
  equal(await client.pExpire(key, 1), 1, "PEXPIRE");
  const deadline = Date.now() + 10_000;
  while ((await client.get(key)) !== null) {
    ok(Date.now() < deadline, "a key lives on after its time");
  }
  equal(await client.ttl(key), -2, "TTL");
}

/** node-redis sends in one go what is called in one go. */
async function pipeline(client, prefix) {
  const name = (index) => `${prefix}:${index % 100}`;
  await client.del(Array.from({ length: 100 }, (_, index) => name(index)));
  const turns = [
    (key, index) => [client.set(key, `${index}`), "OK"],
    (key, index) => [client.incr(key), index - 99],
    (key, index) => [client.get(key), `${index - 199}`],
    (key, index) => [
      client.mGet([key, name(index + 1)]),
      [index, index + 1].map((number) => `${(number % 100) + 1}`),
    ],
    (key) => [client.lPush(key, "x"), Error],
    (key, index) => [client.append(key, "abc"), `${index - 499}`.length + 3],
    (key) => [client.del([key, prefix]), 1],
    (key) => [client.rPush(key, ["x", "y"]), 2],
    (key) => [client.lRange(key, 0, -1), ["x", "y"]],
    (key) => [client.exists([key, key, prefix]), 2],
  ];
  const sent = [];
  const expected = [];
  for (let index = 0; index < 1000; index++) {
    const [promise, value] = turns[Math.floor(index / 100)](name(index), index);
    sent.push(promise);
    expected.push(value);
  }
  const replies = await Promise.allSettled(sent);
  replies.forEach(({ reason, value }, index) => {
    if (expected[index] === Error) ok(reply("WRONGTYPE")(reason), `reply ${index} of a pipeline`);
    else deepEqual([reason, value], [undefined, expected[index]], `reply ${index} of a pipeline`);
  });
}

async function errors(client, key) {
  await client.set(key, "x");
  await rejects(client.lPush(key, "x"), reply("WRONGTYPE Operation against"));
  await rejects(client.incr(key), reply("ERR value is not an integer"));
  await rejects(client.rename(key, `${key}2`), reply("CROSSSLOT Keys in request don't hash"));
  await rejects(client.sendCommand(["NOSUCH", "x"]), reply("ERR unknown command 'NOSUCH'"));
  await rejects(client.sendCommand(["GET"]), reply("ERR wrong number of arguments for 'get'"));
  equal(await client.get(key), "x", "GET after errors");
}

async function refused(client, key) {
  const before = await client.clientId();
  const inClusters = reply("SWAPDB is not allowed in cluster mode");
  await rejects(client.sendCommand(["SWAPDB", "0", "1"]), inClusters);
  equal(await client.clientId(), before, "CLIENT ID, of the same connection");
}

async function closed(client, key) {
  const before = await client.clientId();
  await client.close();
  await client.connect();
  equal(await client.set(key, "x"), "OK", "SET after a reconnect");
  notEqual(await client.clientId(), before, "CLIENT ID of the next connection");
}

/** Two clients of different versions, each with what its version of HGETALL is. */
async function sideBySide() {
  const key = "node-redis:sideBySide";
  const hammer = async (RESP, expected) => {
    const client = await connect({ RESP });
    await client.hSet(key, "a", "1");
    for (let turn = 0; turn < 500; turn++) {
      // Not `hGetAll`, which makes an object of both.
      const got = await client.sendCommand(["HGETALL", key]);
      deepEqual(Array.isArray(got) ? got : { ...got }, expected, `HGETALL in RESP${RESP}`);
    }
    await client.close();
  };
  await Promise.all([hammer(2, ["a", "1"]), hammer(3, { a: "1" })]);
}

await main();
