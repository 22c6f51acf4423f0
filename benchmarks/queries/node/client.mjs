// One client process on Node, which takes the same orders as `client.py`: one JSON value a line, one answer a line.
import readline from "node:readline";

const [, , way, socket, database] = process.argv;
const { open } = await import(way.startsWith("drizzle") ? "./drizzle.mjs" : "./postgres.mjs");
const { jobs, close } = open(way, socket, database);
const orders = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (value) => process.stdout.write(`${JSON.stringify(value ?? null)}\n`);
let number = 0;

// A timestamp is told from a text that looks like one.
Date.prototype.toJSON = function () {
  return `timestamp ${this.toISOString().slice(0, 19)}`;
};

async function turns(run, inflight, seconds) {
  const latencies = [];
  const end = performance.now() + seconds * 1000;
  const worker = async () => {
    do {
      const at = performance.now();
      await run(number++);
      latencies.push(performance.now() - at);
    } while (performance.now() < end);
  };
  await Promise.all(Array.from({ length: inflight }, worker));
  return latencies;
}

async function measure({ job, inflight, seconds, warm_seconds }) {
  await turns(jobs[job], inflight, warm_seconds);
  say("ready");
  await orders.next();
  const cpu = process.cpuUsage();
  const started = performance.now();
  const latencies = await turns(jobs[job], inflight, seconds);
  const took = (performance.now() - started) / 1000;
  const used = process.cpuUsage(cpu);
  latencies.sort((a, b) => a - b);
  return {
    calls: latencies.length,
    per_second: latencies.length / took,
    p50_ms: latencies[Math.floor(latencies.length / 2)],
    p99_ms: latencies[Math.floor(latencies.length * 0.99)],
    max_ms: latencies[latencies.length - 1],
    client_cpu_ms: (used.user + used.system) / 1000 / latencies.length,
  };
}

for (let line = await orders.next(); !line.done; line = await orders.next()) {
  const order = JSON.parse(line.value);
  say(order.check ? await Promise.all(order.check.numbers.map(jobs[order.check.job])) : await measure(order));
}
await close();
