import assert from "node:assert/strict";
import { test } from "node:test";
import { RefusedError } from "../src/core/link.js";
import { Shown, type How } from "../src/core/shown.js";
import { newLock } from "../src/core/stores.js";
import { Memory, pseudo } from "./memory.js";

const owner = "anna/browser";

function start() {
  const store = new Memory();
  const calls: How[] = [];
  const shown = new Shown(store, newLock());
  const put = (how: How) => async () => { calls.push(how); return how; };
  return { store, shown, calls, put };
}

test("an ID is shown once, whichever path brings it, also at once", async () => {
  const { shown, calls, put } = start();
  const outcomes = await Promise.all([
    shown.show(owner, pseudo("a"), put("push")),
    shown.show(owner, pseudo("a"), put("tip")),
    shown.show(owner, pseudo("a", { redelivery: true }), put("tip")),
  ]);
  assert.deepEqual(calls, ["push"]);
  assert.deepEqual(outcomes.map((o) => o.first), [true, false, false]);
  await shown.show("ben/browser", pseudo("a"), put("tip")); // another device
  assert.deepEqual(calls, ["push", "tip"]);
});

test("the channel's copy completes what a push has shown", async () => {
  const { shown, calls, put, store } = start();
  await shown.show(owner, pseudo("a", { pushed: true }), put("push"));
  const { item } = await shown.show(owner, pseudo("a", { ack: "displayed", has_message: true }), put("tip"));
  assert.deepEqual(calls, ["push"]);
  assert.equal(item.shown, "push");
  assert.equal((await store.get(owner, "a"))?.pseudo?.has_message, true);
});

test("what could not be shown is not on record", async () => {
  const { shown, calls, put } = start();
  await assert.rejects(shown.show(owner, pseudo("a"), () => Promise.reject(new Error("no"))), /no/);
  assert.equal((await shown.show(owner, pseudo("a"), put("tip"))).first, true);
  assert.deepEqual(calls, ["tip"]);
});

test("what was shown and could not be recorded is not shown again, and is recorded later", async () => {
  const { shown, calls, put, store } = start();
  const m = { id: "a", account: "anna", data: 7, accepted_at: "" };
  let taken = 0;
  const take = async () => { taken++; };
  await shown.show(owner, pseudo("before"), put("page"));
  store.fail = true;
  for (let copy = 0; copy < 3; copy++) {
    await assert.rejects(shown.show(owner, pseudo("a"), put("tip")), /disk/);
    await assert.rejects(shown.message(owner, { ...m, id: "before" }, take), /disk/);
  }
  assert.deepEqual([calls, taken], [["page", "tip"], 1]);
  store.fail = false;
  const { item, first } = await shown.show(owner, pseudo("a", { redelivery: true }), put("tip"));
  assert.deepEqual([first, item.shown], [false, "tip"]);
  assert.equal(await shown.message(owner, { ...m, id: "before" }, take), undefined);
  assert.deepEqual([calls, taken], [["page", "tip"], 1]);
  assert.equal((await store.get(owner, "a"))?.shown, "tip");
  assert.equal((await store.get(owner, "before"))?.taken, true);
});

test("nothing of a device is on record after its sign-out, also of a tip that is being shown", async () => {
  const { shown, put, store } = start();
  store.fail = true;
  await assert.rejects(shown.show(owner, pseudo("unrecorded"), put("tip")));
  store.fail = false;
  let display!: () => void;
  const displayed = new Promise<void>((resolve) => { display = resolve; });
  const showing = shown.show(owner, pseudo("a"), async () => { await displayed; return "tip"; });
  const forgotten = shown.forget(owner, async () => { for (const i of await store.list(owner)) store.items.delete(`${owner}|${i.id}`); });
  display();
  await Promise.all([showing, forgotten]);
  assert.deepEqual(await store.list(owner), []);
  assert.equal((await shown.show(owner, pseudo("unrecorded"), put("tip"))).first, true); // of the next user
});

test("of two with one tag the later accepted one stays, whatever their order", async () => {
  const { shown, calls, put } = start();
  const at = (ms: number) => ({ tag: "order", accepted_at: new Date(ms).toISOString() });
  await shown.show(owner, pseudo("new", at(2000)), put("push"));
  const old = await shown.show(owner, pseudo("old", at(1000)), put("push"));
  assert.deepEqual(calls, ["push"]);
  assert.equal(old.item.shown, "replaced");
  assert.equal(old.newer?.id, "new");
  assert.equal((await shown.show(owner, pseudo("newest", at(3000)), put("push"))).first, true);
  assert.equal((await shown.show(owner, pseudo("new", at(2000)), put("push"))).newer?.id, "newest"); // again
});

test("a dismissed notification is not shown by a push that comes later", async () => {
  const { shown, calls, put } = start();
  await shown.dismiss(owner, "a");
  assert.equal((await shown.show(owner, pseudo("a"), put("push"))).first, false);
  await shown.show(owner, pseudo("b"), put("tip"));
  assert.equal((await shown.dismiss(owner, "b")).shown, "tip");
  assert.deepEqual(calls, ["tip"]);
});

test("acks are owed until they are sent", async () => {
  const { shown, put } = start();
  await shown.show(owner, pseudo("a", { ack: "displayed" }), put("blocked"));
  const sent: string[] = [];
  const send = async (id: string, status: string) => { sent.push(id + " " + status); };
  await shown.pay(owner, false, send);
  assert.deepEqual(sent, []); // nobody looks
  await assert.rejects(shown.pay(owner, true, () => Promise.reject(new Error("not connected"))));
  await shown.pay(owner, true, send);
  await shown.pay(owner, true, send);
  assert.deepEqual(sent, ["a displayed"]);
  assert.equal((await shown.read(owner, "a"))?.owed, "read");
  assert.equal(await shown.read(owner, "a"), undefined); // once
  await shown.pay(owner, false, send);
  assert.deepEqual(sent, ["a displayed", "a read"]);
});

test("a refused ack does not hold up the others, and stays owed only if it may pass later", async (t) => {
  t.mock.method(console, "debug", () => {});
  const { shown, store } = start();
  const codes: Record<string, number> = { unknown: 0x87, invalid: 0x99, busy: 0x97, failing: 0x83 };
  for (const id of [...Object.keys(codes), "good"]) await shown.read(owner, id);
  let sent: string[] = [];
  const send = async (id: string) => {
    sent.push(id);
    if (codes[id]) throw new RefusedError(codes[id], "no");
  };
  const owed = async () => (await store.list(owner)).filter((i) => i.owed).map((i) => i.id);
  await shown.pay(owner, true, send);
  assert.deepEqual(sent, ["unknown", "invalid", "busy", "failing", "good"]);
  assert.deepEqual(await owed(), ["busy", "failing"]);
  sent = [];
  codes["busy"] = 0;
  await shown.pay(owner, true, send);
  assert.deepEqual(sent, ["busy", "failing"]);
  assert.deepEqual(await owed(), ["failing"]);
});

test("an ack that becomes owed while another is sent is not lost", async () => {
  const { shown, put } = start();
  await shown.show(owner, pseudo("a", { ack: "displayed" }), put("blocked"));
  await shown.pay(owner, true, async (id) => void await shown.read(owner, id));
  const sent: string[] = [];
  await shown.pay(owner, true, async (_, status) => { sent.push(status); });
  assert.deepEqual(sent, ["read"]);
});

test("a message is taken once", async () => {
  const m = { id: "a", account: "anna", data: 7, accepted_at: "" };
  for (const keep of [false, true]) {
    const shown = new Shown(new Memory(), newLock(), keep);
    let taken = 0;
    const put = async () => { taken++; };
    await assert.rejects(shown.message(owner, m, () => Promise.reject(new Error("no"))), /no/);
    assert.equal((await shown.message(owner, m, put))?.message?.data, keep ? 7 : undefined);
    assert.equal(await shown.message(owner, m, put), undefined);
    assert.equal(taken, 1);
  }
});
