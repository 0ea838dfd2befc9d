import assert from "node:assert/strict";
import { test } from "node:test";
import { badName, Device, type MqttClient, type Options, type Status } from "../src/core/index.js";
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

// Broker is what a connected client of MQTT.js is asked to do.
class Broker implements MqttClient {
  connected = false;
  pings = 0;
  readonly sent: string[] = [];
  readonly on: MqttClient["on"];
  readonly handlers: Record<string, (x?: unknown) => void> = {};
  done: ((err: Error | null, subscriptions?: unknown, suback?: { granted: number[] }) => void) | undefined;
  constructor() {
    this.on = (event: string, fn: any) => { this.handlers[event] = fn; };
  }
  publish(topic: string, payload: string | Uint8Array) { this.sent.push(`${topic.split("/").at(-1)} ${payload}`); }
  subscribe(_: unknown, done: Broker["done"] & {}) { this.done = done; }
  end() { this.connected = false; }
  sendPing() { this.pings++; }
  connect() {
    this.connected = true;
    this.handlers["connect"]!();
  }
  up() {
    this.connect();
    this.done!(null, [], { granted: [1, 1, 1] });
  }
}

function dial(more: Partial<Options> = {}) {
  const clock = new Clock(), brokers: Broker[] = [], statuses: Status[] = [];
  const device = new Device((_, options) => {
    const b = Object.assign(new Broker(), { options });
    brokers.push(b);
    return b;
  }, { url: "ws://x", account: "anna", device: "phone", timers: clock, show: () => undefined, status: (s) => void statuses.push(s), ...more });
  return { clock, brokers, statuses, device };
}

test("a connection that is dead and counts as up is replaced when the app comes to the foreground", async () => {
  const w = dial({ app: "background" });
  const [first] = w.brokers as [Broker];
  first.up();
  w.device.setApp("foreground");
  w.device.retryNow(); // the network is back, too
  assert.equal(first.pings, 1);
  first.handlers["packetreceive"]!(); // it is there
  assert.equal(w.clock.due.size, 0);
  assert.equal(w.brokers.length, 1);

  w.device.retryNow();
  assert.equal(first.pings, 2);
  assert.equal(w.clock.next(), 5000);
  assert.equal(first.connected, false);
  assert.equal(w.brokers.length, 2); // at once
  assert.deepEqual(w.statuses.map((s) => s.kind), ["connecting", "up", "down", "connecting"]);
  first.handlers["close"]!(); // late
  w.brokers[1]!.up();
  assert.equal(w.device.status.kind, "up");
  w.device.retryNow();
  w.device.close();
  assert.equal(w.clock.due.size, 0);
});

test("a ping that waits behind a notification that is being shown ends no connection", async () => {
  let shown!: () => void;
  const w = dial({ show: () => new Promise<void>((resolve) => { shown = resolve; }) });
  const [broker] = w.brokers as [Broker & { options: any }];
  broker.up();
  const acked = new Promise((resolve) => broker.options.customHandleAcks("heartline/devices/phone/notifications",
    `{"id":"a","account":"anna","accepted_at":"","ack":"received"}`, {}, resolve));
  await new Promise(setImmediate);
  w.device.retryNow();
  w.clock.next();
  assert.deepEqual([broker.connected, w.brokers.length], [true, 1]);
  shown();
  assert.equal(await acked, 0);
});

test("an ordinary topic that is refused costs no notification, a topic of the device does", (t) => {
  const said = t.mock.method(console, "error", () => {});
  const subscribe = { "news/#": 0, "other/#": 1 } as const;
  let w = dial({ subscribe });
  w.brokers[0]!.connect();
  w.brokers[0]!.done!(new Error("Subscribe error: Not authorized"), [], { granted: [1, 1, 1, 0, 0x87] });
  assert.equal(w.device.status.kind, "up");
  assert.match(String(said.mock.calls[0]?.arguments), /other\/#.*Not authorized/);
  for (const granted of [[1, 0x87, 1, 0, 0x87], [0x97, 1, 1, 0, 1]]) {
    w = dial({ subscribe });
    w.brokers[0]!.connect();
    w.brokers[0]!.done!(new Error("Subscribe error: Not authorized"), [], { granted });
    assert.equal(w.device.status.kind, "refused");
  }
  w = dial({ subscribe: { "a/#/b": 0 } });
  w.brokers[0]!.connect();
  w.brokers[0]!.done!(new Error("Invalid topic a/#/b"));
  assert.deepEqual(w.device.status, { kind: "refused", why: "Invalid topic a/#/b" });
});

test("an address to which no connection can be made is a status, at each attempt", async () => {
  const statuses: Status[] = [];
  const device: Device = new Device(() => { throw new Error("Missing protocol"); }, {
    url: "mqtt.example.com", account: "anna", device: "phone", show: () => undefined,
    status: (s) => { if (s.kind === "refused") assert.equal(device.status, s); statuses.push(s); },
  });
  await new Promise(setImmediate);
  assert.deepEqual(statuses, [{ kind: "connecting" }, { kind: "refused", why: "no connection can be made: Missing protocol" }]);
});

test("a password function that never answers is asked again", async () => {
  let asked = 0;
  const w = dial({ password: () => (++asked === 1 ? new Promise(() => undefined) : "secret") });
  assert.equal(w.clock.next(), 30_000);
  await new Promise(setImmediate);
  assert.equal(w.device.status.kind, "down");
  assert.match((w.device.status as { why: string }).why, /no password: .* within 30 s/);
  w.clock.next();
  await new Promise(setImmediate);
  assert.deepEqual([asked, w.brokers.length, w.clock.due.size], [2, 1, 0]);
  const hung = dial({ password: () => new Promise(() => undefined) });
  hung.device.close();
  assert.equal(hung.clock.due.size, 0); // nothing keeps the process
});

test("registrations are sent in the order of their calls, and a removal replaces all of its server", async () => {
  const w = dial();
  const results: string[] = [];
  const register = (t: Parameters<Device["register"]>[0]) => void w.device.register(t).catch((err) => results.push(err.message));
  register({ apns: { token: "aa" } });
  register({ apns: { token: "bb", kind: "voip" } });
  register({ fcm: { token: "cc" } });
  register({ apns: null });
  register({ fcm: { token: "dd" } });
  w.brokers[0]!.up();
  await new Promise(setImmediate);
  assert.deepEqual(w.brokers[0]!.sent.filter((s) => s.startsWith("push-token")), [`push-token {"apns":null}`, `push-token {"fcm":{"token":"dd"}}`]);
  assert.deepEqual(results, Array(3).fill("replaced by a later registration"));
  w.device.close();
});

test("an account may be a telephone number or an address, a device ID is a level of a topic", () => {
  for (const name of ["+4915112345678", "ann@example.org", "a/b#c", "Zoë 🐝"]) assert.equal(badName("account", name), "");
  for (const name of ["", ".", "..", "a\nb", "\u0085", "é".repeat(65)]) assert.notEqual(badName("account", name), "", name);
  for (const name of ["+49", "a/b", "a#b", "a\u007fb"]) assert.notEqual(badName("device", name), "", name);
  assert.equal(badName("device", "alice-7f3a"), "");
});

test("closed while it asks for its password", async () => {
  const w = start();
  w.device.close();
  await new Promise(setImmediate);
  assert.equal(w.handlers.length, 0);
});
