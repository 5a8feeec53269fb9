// coffee-resque's own Worker on a given Redis, each job that it performs a line of JSON on stdout: {"class", "args"}.
//
//   node coffee_resque.js '{"port": 6379, "namespace": "resque", "classes": ["Worker::Mail"], "queues": ["mail"]}'
//
// enqueue: [[queue, class, args], ...] puts jobs in:  {"enqueued": n}
// {"ready": true} once it runs. Ends well on SIGTERM. A job that it can't perform is a line {"error"}.
"use strict";

const resque = require("coffee-resque");

const asked = JSON.parse(process.argv[2]);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const jobs = {};
for (const name of asked.classes || []) {
  jobs[name] = (...args) => {
    const done = args.pop();
    say({ class: name, args: args });
    done();
  };
}

const connection = resque.connect({ host: "127.0.0.1", port: asked.port, namespace: asked.namespace, timeout: 20 });
const worker = connection.worker((asked.queues || ["nobody"]).join(","), jobs);
worker.on("error", (error) => say({ error: String(error) }));
worker.start();
for (const job of asked.enqueue || []) connection.enqueue(...job);
if (asked.enqueue) say({ enqueued: asked.enqueue.length });
say({ ready: true });

process.on("SIGTERM", () => worker.end(() => process.exit(0)));
