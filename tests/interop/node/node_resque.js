// node-resque's own Worker, Scheduler and Queue on a given Redis, each event a line of JSON on stdout.
//
//   node node_resque.js '{"port": 6379, "classes": ["Worker::Mail"], ...}'
//
// port, namespace   where Resque is
// work              run a worker on all queues:             {"class", "args", "qudo"} for each job that it performs
// classes           those that the worker can perform
// fail              of these those that throw, the first time that each job is run
// schedule          run a scheduler:                        {"leads": true} once it does
// requeue           requeue all failures, then go on:       {"requeued": n, "refused": [error, ...]}
// enqueue           [[queue, class, args], ...]:           {"enqueued": n}
// enqueue_in        [[ms, queue, class, args], ...]:       {"enqueued_in": n}
// look              what its tools show:                   {"seen": {workers, working, stats, failed}}
// scheduled_at      [queue, class, args] of one job:        {"scheduled_at": [second, ...]}
//
// {"ready": true} once all runs. Ends well on SIGTERM. Whatever goes wrong is a line {"error"}.
"use strict";

const { Queue, Scheduler, Worker } = require("node-resque");

const asked = JSON.parse(process.argv[2]);
const connection = () => ({ host: "127.0.0.1", port: asked.port, namespace: asked.namespace, database: 0 });
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const complain = (error) => say({ error: String(error) });
const running = [];

async function work() {
  const failed = new Set();
  const jobs = {};
  for (const name of asked.classes) {
    jobs[name] = {
      perform: async function (...args) {
        const key = JSON.stringify([name, args]);
        if ((asked.fail || []).includes(name) && !failed.has(key)) {
          failed.add(key);
          throw new Error("the first time");
        }
        say({ class: name, args: args, qudo: this.job.qudo });
      },
    };
  }
  const worker = new Worker({ connection: connection(), queues: ["*"], timeout: 20 }, jobs);
  worker.on("error", complain);
  await worker.connect();
  await worker.start();
  running.push(worker);
}

async function schedule() {
  const scheduler = new Scheduler({ connection: connection(), timeout: 20 });
  scheduler.on("error", complain);
  scheduler.on("leader", () => say({ leads: true }));
  await scheduler.connect();
  await scheduler.start();
  running.push(scheduler);
}

async function ask() {
  const queue = new Queue({ connection: connection() });
  queue.on("error", complain);
  await queue.connect();
  running.push(queue);
  if (asked.requeue) {
    const failures = await queue.failed(0, -1);
    const refused = [];
    for (const failure of failures) {
      await queue.retryAndRemoveFailed(failure).catch((error) => refused.push(error.message));
    }
    say({ requeued: failures.length - refused.length, refused: refused });
  }
  for (const job of asked.enqueue || []) await queue.enqueue(...job);
  for (const job of asked.enqueue_in || []) await queue.enqueueIn(...job);
  if (asked.enqueue) say({ enqueued: asked.enqueue.length });
  if (asked.enqueue_in) say({ enqueued_in: asked.enqueue_in.length });
  if (asked.look) {
    const [workers, working, stats] = [await queue.workers(), await queue.allWorkingOn(), await queue.stats()];
    say({ seen: { workers: workers, working: working, stats: stats, failed: await queue.failed(0, -1) } });
  }
  if (asked.scheduled_at) {
    say({ scheduled_at: await queue.scheduledAt(...asked.scheduled_at) });
  }
}

process.on("SIGTERM", async () => {
  for (const each of running) {
    await each.end();
  }
  process.exit(0);
});

(async () => {
  if (asked.work) await work();
  if (asked.schedule) await schedule();
  await ask();
  say({ ready: true });
})().catch((error) => {
  complain(error.stack);
  process.exit(1);
});
