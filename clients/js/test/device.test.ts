// The client against the real program.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { connect, memoryStore, newLock, RefusedError, Shown, type Device, type Dismissal, type Message, type Options, type Pseudo, type Status } from "../src/index.js";
import { fileStore } from "../src/node/index.js";
import { eventually, program, Server } from "./server.js";

// Phone is a device that remembers what it was asked to do.
class Phone {
  readonly tips: Pseudo[] = [];
  readonly messages: Message[] = [];
  readonly dismissals: Dismissal[] = [];
  readonly statuses: Status[] = [];
  readonly device: Device;

  constructor(t: TestContext, s: Server, name: string, more: Partial<Options> = {}) {
    this.device = connect({
      url: s.ws, account: "anna", device: name,
      show: (p) => void this.tips.push(p),
      message: (m) => void this.messages.push(m),
      dismiss: (d) => void this.dismissals.push(d),
      status: (st) => void this.statuses.push(st),
      ...more,
    });
    t.after(() => this.device.close());
  }

  status(kind: Status["kind"]): Promise<Status> {
    return eventually(`${kind}: ${JSON.stringify(this.statuses)}`, () => (this.device.status.kind === kind ? this.device.status : undefined));
  }
}

async function up(t: TestContext, s: Server, name: string, more: Partial<Options> = {}): Promise<Phone> {
  const p = new Phone(t, s, name, more);
  await p.status("up");
  return p;
}

for (const transport of ["ws", "tcp"] as const) {
  test(`shown, acknowledged, and the message in the foreground, over ${transport}`, async (t) => {
    const s = await Server.start(t);
    const p = await up(t, s, "phone", { url: s[transport], app: "background" });
    const id = await s.notify({ account: "anna", title: "Order 7", body: "is ready", data: { order: 7 }, extra: { trace: "x" }, ack: "displayed" });
    await s.until(id, "displayed");
    assert.equal(p.tips[0]?.title, "Order 7");
    assert.deepEqual(p.tips[0]?.extra, { trace: "x" });
    assert.equal((await s.device("anna", "phone")).app, "background");
    assert.equal(p.messages.length, 0);
    p.device.setApp("foreground");
    await s.until(id, "message_received");
    assert.deepEqual(p.messages.map((m) => m.data), [{ order: 7 }]);
    assert.deepEqual((await p.device.items()).map((i) => [i.id, i.shown, i.message]), [[id, "tip", undefined]]);
  });
}

test("copies of an ID are shown once, and each is acknowledged", async (t) => {
  const s = await Server.start(t, { HEARTLINE_DELIVERY_ACK_WINDOW: "300ms" });
  let release = () => {};
  const held = new Promise<void>((resolve) => { release = resolve; });
  let shows = 0;
  const p = await up(t, s, "phone", { show: async () => { shows++; await held; } });
  const id = await s.notify({ account: "anna", title: "Once", fallback: false });
  await s.until(id, "waiting"); // no ack within the window
  p.device.setApp("background"); // a heartbeat: it is published again
  await s.until(id, "redelivered");
  release();
  await s.until(id, "received");
  await s.until(await s.notify({ account: "anna", title: "Next" }), "received"); // after the copy
  assert.equal(shows, 2);
});

test("an ID that a push has shown is not shown again", async (t) => {
  const s = await Server.start(t);
  const store = memoryStore(), lock = newLock();
  const p = new Phone(t, s, "phone", { store, lock });
  await p.status("up");
  // The app's background handler for pushes looks into the same store.
  const pushed = { id: "order-7", account: "anna", title: "Order 7", accepted_at: new Date().toISOString(), redelivery: false, pushed: true, has_message: false, ack: "received" as const };
  await new Shown(store, lock).show(p.device.owner, pushed, async () => "push");
  await s.notify({ account: "anna", id: "order-7", title: "Order 7", body: "is ready" });
  await s.until("order-7", "received");
  assert.equal(p.tips.length, 0);
  assert.equal((await p.device.items())[0]?.pseudo?.body, "is ready");
});

test("a restart of the app shows nothing again", async (t) => {
  const s = await Server.start(t);
  const dir = await mkdtemp(join(tmpdir(), "heartline-client-"));
  t.after(() => rm(dir, { recursive: true }));
  const path = join(dir, "shown");
  const first = await fileStore(path);
  // It is shown and recorded, and the app dies before the PUBACK.
  const dying: Phone = await up(t, s, "phone", { store: first, changed: () => dying.device.close() });
  const id = await s.notify({ account: "anna", title: "Once", data: 1, fallback: false });
  await dying.status("closed");
  assert.equal(dying.tips.length, 1);
  await first.close();

  const store = await fileStore(path);
  t.after(() => store.close());
  const p = await up(t, s, "phone", { store });
  await s.until(id, "message_received");
  assert.equal(p.tips.length, 0);
  assert.deepEqual(p.messages.map((m) => m.data), [1]);
  assert.match(await readFile(path, "utf8"), /"taken":true/);
});

test("what cannot be shown is refused, and the server goes on at once", async (t) => {
  const s = await Server.start(t);
  t.mock.method(console, "error", () => {});
  await up(t, s, "phone", { show: () => Promise.reject(new Error("no screen")) });
  const id = await s.notify({ account: "anna", title: "Nobody sees it", fallback: false });
  await s.until(id, "nacked");
});

test("back after kill -9 of the server", async (t) => {
  const s = await Server.start(t);
  const p = await up(t, s, "phone");
  await s.kill();
  const down = await p.status("down");
  assert.ok(down.kind === "down" && down.retryIn >= 500 && down.retryIn <= 1000, JSON.stringify(down));
  await s.again();
  await p.status("up");
  await s.until(await s.notify({ account: "anna", title: "Back" }), "received");
});

test("a connection that only looks alive is given up, and an ack is sent on the next", async (t) => {
  const s = await Server.start(t);
  const p = await up(t, s, "phone", { keepalive: 1 });
  const id = await s.notify({ account: "anna", title: "Read later" });
  await s.until(id, "received");
  t.mock.method(console, "debug", () => {});
  await s.freeze();
  const read = p.device.read(id); // its PUBACK does not come
  const out = assert.rejects(p.device.publish("anything", "", { qos: 1 }), /not connected/);
  await p.status("down");
  await Promise.all([read, out]);
  s.thaw();
  await s.until(id, "read");
});

test("thrown out by another connection, it stays away", async (t) => {
  const s = await Server.start(t);
  const first = await up(t, s, "phone");
  await up(t, s, "phone");
  await first.status("elsewhere");
  first.device.retryNow();
  assert.equal(first.device.status.kind, "elsewhere");
});

test("refused, with the reason, and fresh passwords", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "heartline-client-"));
  t.after(() => rm(dir, { recursive: true }));
  const users = join(dir, "users.yaml");
  execFileSync(program(), ["user", "add", "anna", "--file", users], { input: "secret\n" });
  const s = await Server.start(t, { HEARTLINE_AUTH_MODE: "file", HEARTLINE_AUTH_FILE_PATH: users });
  const p = new Phone(t, s, "anna-phone", { password: async () => "wrong" });
  const refused = await p.status("refused");
  assert.deepEqual(refused, { kind: "refused", why: "bad account or password" });
  await assert.rejects(p.device.register({ fcm: { token: "x" } }), /not connected/);

  let asked = 0;
  const later = new Phone(t, s, "anna-phone", { password: () => { if (asked++ === 0) throw new Error("offline"); return "wrong"; } });
  const down = await later.status("down");
  assert.ok(down.kind === "down" && down.why === "no password: offline", JSON.stringify(down));
  later.device.retryNow();
  await later.status("refused");
  assert.equal(asked, 2);
  await up(t, s, "anna-phone", { password: "secret" });
});

test("registrations: FCM, a refusal, and one that waits for the connection", async (t) => {
  const s = await Server.start(t);
  const p = new Phone(t, s, "phone");
  const replaced = assert.rejects(p.device.register({ fcm: { token: "old" } }), /later registration/);
  await p.device.register({ fcm: { token: "dGhpcyBpcyBhIHRva2Vu" } }); // before the connection is up
  await replaced;
  const servers = async () => ((await s.device("anna", "phone")).registrations ?? []).map((r: any) => `${r.server} ${r.kind}`);
  assert.deepEqual(await servers(), ["fcm alert"]);
  await assert.rejects(p.device.register({ webpush: { endpoint: "https://push.example/1", keys: { p256dh: "AAAA", auth: "AAAA" } } }), (err) => err instanceof RefusedError && err.code === 0x99 && /p256dh/.test(err.message));
  await p.device.register({ fcm: null });
  assert.deepEqual(await servers(), []);

  await s.kill();
  await p.status("down");
  const later = p.device.register({ fcm: { fid: "cPVbUTQnR4-F5QzRjzGkKf" } });
  await s.again();
  p.device.retryNow();
  await later;
  assert.deepEqual(await servers(), ["fcm alert"]);
});

test("read on one device, taken off the others; a late copy is not shown", async (t) => {
  const s = await Server.start(t);
  const phone = await up(t, s, "phone"), tablet = await up(t, s, "tablet");
  const id = await s.notify({ account: "anna", title: "Lunch" });
  await eventually("both tips", () => phone.tips.length === 1 && tablet.tips.length === 1);
  await phone.device.read(id);
  await eventually("the dismissal", () => tablet.dismissals.length === 1);
  assert.equal(tablet.dismissals[0]?.id, id);
  assert.equal(phone.dismissals.length, 0);
  await s.until(id, "dismissed");
  assert.deepEqual((await tablet.device.items()).map((i) => i.dismissed), [true]);
  await phone.device.read(id); // twice is once
  assert.equal((await s.view(id)).timeline.filter((e) => e.event === "read").length, 1);
});

test("an ack that the server refuses for good does not hold up the next", async (t) => {
  t.mock.method(console, "debug", () => {});
  const s = await Server.start(t);
  const p = await up(t, s, "phone");
  await p.device.read("of-another-time"); // the store is older than the server's data
  const tablet = await up(t, s, "tablet");
  const others = await s.notify({ account: "anna", title: "For the tablet", devices: ["tablet"] });
  await eventually("the tablet's tip", () => tablet.tips.length === 1);
  await p.device.read(others);
  const id = await s.notify({ account: "anna", title: "Lunch" });
  await eventually("the tip", () => p.tips.length === 1);
  await p.device.read(id);
  await s.until(id, "read");
  assert.ok(!(await s.view(others)).timeline.some((e) => e.event === "read"));
  assert.deepEqual((await p.device.items()).filter((i) => i.owed), []);
});

test("an ack of a notification that nobody saw is sent once the app is looked at", async (t) => {
  const s = await Server.start(t);
  const p = await up(t, s, "phone", { app: "background", show: () => "blocked" });
  const id = await s.notify({ account: "anna", title: "No tips allowed", ack: "displayed", fallback: false });
  const v = await s.until(id, "received");
  assert.ok(!v.timeline.some((e) => e.event === "displayed"));
  p.device.setApp("foreground");
  await s.until(id, "displayed");
});

test("signed out: the server forgets the device, and nothing stays here", async (t) => {
  const s = await Server.start(t);
  const p = await up(t, s, "phone");
  await s.until(await s.notify({ account: "anna", title: "Private" }), "received");
  await p.device.signOut();
  await p.status("signed out");
  assert.deepEqual(await p.device.items(), []);
  assert.equal((await s.call("GET", "/v1/accounts/anna/devices/phone")).status, 404);
  await p.device.signOut(); // it is
});

test("ordinary topics on the same connection", async (t) => {
  const s = await Server.start(t);
  const got: string[] = [];
  const truck = await up(t, s, "truck", { will: { topic: "fleet/truck/state", payload: "gone", retain: true, qos: 1 } });
  await truck.device.publish("fleet/truck/state", "driving", { qos: 1, retain: true });
  const room = await up(t, s, "room", { subscribe: { "fleet/+/state": 1 }, receive: (p) => void got.push(`${p.payload} ${p.retain}`) });
  await eventually("the retained state", () => got.length === 1);
  assert.deepEqual(got, ["driving true"]);
  await up(t, s, "truck"); // takes the connection over: the will is published
  await eventually("the will", () => got.length === 2);
  assert.deepEqual(got[1], "gone false");
  room.device.close();
});

test("a name that could not be a device is an error at once", () => {
  for (const name of ["", "a/b", "a+b", "a#b", "a\nb", "é".repeat(65)]) {
    assert.throws(() => connect({ url: "ws://127.0.0.1:1/mqtt", account: "anna", device: name, show: () => undefined }), TypeError, name);
  }
});
