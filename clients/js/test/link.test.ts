import assert from "node:assert/strict";
import { test } from "node:test";
import { Device, type MqttClient, type Options, type Status } from "../src/core/index.js";
import type { Timers } from "../src/core/platform.js";

// Clock is timers that a test moves on, and a connect that always fails.
class Clock implements Timers {
  now = 0;
  readonly due = new Map<number, { at: number; fn: () => void }>();
  #last = 0;
  every(): number { return ++this.#last; }
  after(ms: number, fn: () => void): number {
    this.due.set(++this.#last, { at: this.now + ms, fn });
    return this.#last;
  }
  stop(id: number): void { this.due.delete(id); }
  // next runs the next timer and returns how long it waited.
  next(): number {
    const [[id, timer]] = [...this.due].sort(([, a], [, b]) => a.at - b.at) as [[number, { at: number; fn: () => void }]];
    const pause = timer.at - this.now;
    this.now = timer.at;
    this.due.delete(id);
    timer.fn();
    return pause;
  }
}

type Handlers = Record<string, (x?: unknown) => void>;

function start(more: Partial<Options> = {}) {
  const clock = new Clock(), statuses: Status[] = [], handlers: Handlers[] = [];
  let passwords = 0;
  const connect = (): MqttClient => {
    const on: Handlers = {};
    handlers.push(on);
    return {
      connected: false,
      on: (event: string, fn: any) => { on[event] = fn; },
      publish: () => undefined, subscribe: () => undefined, end: () => undefined,
    };
  };
  const device = new Device(connect, {
    url: "ws://x", account: "anna", device: "phone", timers: clock, password: () => `password ${++passwords}`,
    show: () => undefined, status: (s) => void statuses.push(s), ...more,
  });
  const attempt = async () => {
    await new Promise(setImmediate); // the password
    return handlers.at(-1)!;
  };
  return { clock, statuses, handlers, device, attempt, passwords: () => passwords };
}

test("the pauses between attempts grow to a minute, and are spread", async () => {
  const spread = new Set<number>();
  for (let round = 0; round < 3; round++) {
    const w = start();
    for (let most = 1000, n = 0; n < 9; n++, most = Math.min(most * 2, 60_000)) {
      (await w.attempt())["close"]!();
      const pause = w.clock.next();
      assert.ok(pause >= most / 2 && pause <= most, `pause ${n} is ${pause}, of at most ${most}`);
      spread.add(pause);
    }
    assert.equal(w.passwords(), 10); // a fresh one for each attempt
    w.device.close();
  }
  assert.equal(spread.size, 27);
});

test("a server that is busy is tried again, one that refuses is not", async () => {
  const w = start();
  let on = await w.attempt();
  on["error"]!(Object.assign(new Error("Connection refused: Server busy"), { code: 0x89 }));
  on["close"]!();
  assert.equal(w.device.status.kind, "down");
  w.clock.next();
  on = await w.attempt();
  on["error"]!(Object.assign(new Error("Connection refused: Not authorized"), { code: 0x87 }));
  on["close"]!();
  assert.deepEqual(w.device.status, { kind: "refused", why: "not authorized" });
  assert.equal(w.clock.due.size, 0);
});

test("at once when the network is back, and never two connections", async () => {
  const w = start();
  (await w.attempt())["close"]!();
  w.device.retryNow();
  w.device.retryNow();
  await w.attempt();
  assert.equal(w.handlers.length, 2);
  w.handlers[0]!["close"]!(); // of the old connection, and late
  assert.equal(w.device.status.kind, "connecting");
  w.device.close();
  w.device.retryNow();
  await w.attempt();
  assert.equal(w.handlers.length, 2);
  assert.equal(w.device.status.kind, "closed");
});

test("closed while it asks for its password", async () => {
  const w = start();
  w.device.close();
  await new Promise(setImmediate);
  assert.equal(w.handlers.length, 0);
});
