// A queue of BullMQ through the proxy: `node bullmq.mjs HOST PORT`.
//
// BullMQ keeps a queue in many keys. The hash tag of its prefix puts them into one slot, as any
// Redis Cluster needs it; nothing else is set.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";

const [host, port] = process.argv.slice(2);
const PATIENCE = 60_000;
const options = { prefix: "{bull}", connection: { host, port: Number(port) } };

/** Whatever is opened here is closed at the end. */
const open = [];

function start(Kind, ...args) {
  const part = new Kind(...args);
  part.on("error", (error) => {
    throw error;
  });
  open.push(part);
  return part;
}

const queue = start(Queue, "sums", options);
const events = start(QueueEvents, "sums", options);
const flows = start(FlowProducer, options);
await events.waitUntilReady();
// Each job that is waited for listens.
for (const part of [queue, events]) part.setMaxListeners(100);

const attempts = new Map();
const workers = [0, 1].map(() =>
  start(
    Worker,
    "sums",
    async (job) => {
      attempts.set(job.name, 1 + (attempts.get(job.name) ?? 0));
      if (job.name === "fails") throw new Error("as it was told");
      if (job.name === "second try" && attempts.get(job.name) === 1) throw new Error("once");
      await job.updateProgress(50);
      const children = Object.values(await job.getChildrenValues());
      return [...job.data, ...children].reduce((sum, number) => sum + number, 0);
    },
    { ...options, concurrency: 5 },
  ),
);
await Promise.all(workers.map((worker) => worker.waitUntilReady()));

// Many jobs, shared by two workers.
let progress = 0;
events.on("progress", () => progress++);
const jobs = await queue.addBulk(
  Array.from({ length: 50 }, (_, index) => ({ name: "sum", data: [index, 1] })),
);
const sums = await Promise.all(jobs.map((job) => job.waitUntilFinished(events, PATIENCE)));
deepEqual(sums, jobs.map((_, index) => index + 1), "results of jobs");
ok(progress > 0, "nobody told of progress");

// A job for later, one that is tried again and one that fails for good.
const later = await queue.add("later", [1, 2], { delay: 200 });
const again = await queue.add("second try", [3, 4], { attempts: 2, backoff: 50 });
const fails = await queue.add("fails", [], { attempts: 2 });
equal(await later.waitUntilFinished(events, PATIENCE), 3, "a delayed job");
equal(await again.waitUntilFinished(events, PATIENCE), 7, "a job that was tried again");
equal(attempts.get("second try"), 2, "tries");
await rejects(fails.waitUntilFinished(events, PATIENCE), /as it was told/);
equal(attempts.get("fails"), 2, "tries");
deepEqual(await queue.getJobCounts("completed", "failed", "waiting", "active"), {
  completed: 52,
  failed: 1,
  waiting: 0,
  active: 0,
});

// A job that waits for others.
const children = [1, 2, 3].map((number) => ({ name: "sum", queueName: "sums", data: [number] }));
const { job: parent } = await flows.add({ name: "sum", queueName: "sums", data: [10], children });
equal(await parent.waitUntilFinished(events, PATIENCE), 16, "a job with children");

// Nothing is left of a queue that was removed.
await Promise.all(workers.map((worker) => worker.close()));
await queue.obliterate();
equal((await queue.getJobs()).length, 0, "jobs of a queue that was removed");
await Promise.all(open.map((part) => part.close()));
