import assert from "node:assert/strict";
import { test } from "node:test";
import { keyOf, Registrar, subscribe } from "../src/core/registration.js";
import type { PushToken } from "../src/core/wire.js";
import { Browser, Memory } from "./memory.js";

const key = "BAECAwQ_-w", other = "BAECAwQ_-g";
const who = { owner: "anna/browser", account: "anna", device: "browser", key };

function start() {
  const browser = new Browser(), records = new Memory(), told: PushToken[] = [];
  return { browser, records, told, tell: async (t: PushToken) => void told.push(t), r: new Registrar(browser, records, 10) };
}
const at = (n: number) => ({ webpush: { endpoint: `https://push.example/${n}` } });

test("a subscription of another key is replaced, one of this key is kept", async () => {
  const { browser } = start();
  const first = await subscribe(browser, key);
  assert.equal(keyOf(first), key);
  assert.equal(await subscribe(browser, key), first);
  assert.equal(keyOf(await subscribe(browser, other)), other);
  assert.equal(browser.made, 2);
});

test("a browser that never answers", async () => {
  const { browser } = start();
  browser.hang = true;
  await assert.rejects(subscribe(browser, key, 10), /did not answer within 0.01 s/);
});

test("enable, renew at each connection, disable", async () => {
  const { browser, records, told, tell, r } = start();
  assert.equal(await r.renew(who.owner, key, tell), false); // nobody has asked for it
  await r.enable(who, tell);
  assert.equal(records.current?.endpoint, "https://push.example/1");
  assert.equal(await r.renew(who.owner, key, tell), true);
  assert.equal(await r.renew("ben/browser", key, tell), false); // not his
  await browser.current?.unsubscribe(); // the browser has dropped it
  await r.renew(who.owner, key, tell);
  await r.renew(who.owner, other, tell); // the server has another key
  assert.deepEqual(told, [at(1), at(1), at(2), at(3)]);
  await r.disable(tell);
  assert.deepEqual(told[4], { webpush: null });
  assert.equal(browser.current, undefined);
  assert.equal(records.current, undefined);
});

test("without a connection it ends all the same", async () => {
  const { browser, tell, r } = start();
  await r.enable(who, tell);
  await r.disable(() => Promise.reject(new Error("not connected")));
  assert.equal(browser.current, undefined);
});

test("an enable that the server has not heard of is repeated at the next connection", async () => {
  const { told, tell, r } = start();
  await assert.rejects(r.enable(who, () => Promise.reject(new Error("not connected"))));
  assert.equal(await r.renew(who.owner, key, tell), true);
  assert.deepEqual(told, [at(1)]);
});

test("the worker subscribes again", async () => {
  const { browser, records, r, tell } = start();
  assert.equal(await r.changed(), undefined);
  await r.enable(who, tell);
  await browser.current?.unsubscribe();
  assert.equal((await r.changed())?.endpoint, "https://push.example/2");
  assert.equal(records.current?.endpoint, "https://push.example/2");
});

test("pushes that are stopped while the browser subscribes again stay stopped", async () => {
  for (const again of ["renew", "changed"] as const) {
    const { browser, records, told, tell, r } = start();
    await r.enable(who, tell);
    await browser.current?.unsubscribe(); // the browser has dropped it
    let answer!: () => void;
    const asked = new Promise<void>((resolve) => { answer = resolve; });
    const subscribe = browser.subscribe.bind(browser);
    let subscribing!: () => void;
    const begun = new Promise<void>((resolve) => { subscribing = resolve; });
    browser.subscribe = async (o) => { subscribing(); await asked; return subscribe(o); };
    const renewed = again === "renew" ? r.renew(who.owner, key, tell) : r.changed();
    await begun;
    await r.disable(tell);
    answer();
    assert.ok(!await renewed);
    assert.deepEqual([records.current, browser.current, told.at(-1)], [undefined, undefined, { webpush: null }]);
  }
});

test("a subscription that another device has taken over meanwhile is its own", async () => {
  const { browser, records, told, tell, r } = start();
  await r.enable(who, tell);
  const getSubscription = browser.getSubscription.bind(browser);
  browser.getSubscription = async () => { records.current = { ...who, owner: "ben/browser", endpoint: "x" }; return getSubscription(); };
  assert.equal(await r.renew(who.owner, key, tell), false);
  assert.deepEqual([records.current?.owner, browser.current?.endpoint, told.length], ["ben/browser", "https://push.example/1", 1]);
});
