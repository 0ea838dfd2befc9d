import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { webLink } from "../src/browser/links.js";
import { readFCM, readPush } from "../src/core/push.js";

// The payload that the broker makes, from its own golden file.
const full = await readFile("../../fallback/webpush/testdata/full.json", "utf8");

test("the broker's payload", () => {
  const { pseudo, options, badge } = readPush(full);
  assert.deepEqual(pseudo, {
    id: "order-7", account: "anna", title: "Order <7>", body: "is on its way", accepted_at: "2026-11-25T09:30:00.120Z", redelivery: false, pushed: true,
    has_message: true, ack: "received", tag: "order", link: "https://shop.example/orders/7", subtitle: "Bakery", sound: "ping", category: "ORDER", thread: "orders",
    extra: { trace: "abc" },
  });
  assert.deepEqual(options, { body: "is on its way", tag: "order", silent: false, requireInteraction: true, image: "https://shop.example/7.png" });
  assert.equal(badge, 3);
});

test("a browser that reads the declarative message itself", () => {
  const { pseudo, options } = readPush(undefined, { title: "Order 7", body: "is ready", tag: "order-7" });
  assert.equal(pseudo.id, "order-7");
  assert.equal(pseudo.title, "Order 7");
  assert.deepEqual(options, { body: "is ready", tag: "order-7", silent: false, requireInteraction: false });
});

// It gives the worker the notification alone, without what stands next to it.
test("a browser that reads the declarative message itself, of a notification with a tag of its own", () => {
  const { title, body, tag, data } = JSON.parse(full).notification;
  const { pseudo } = readPush(undefined, { title, body, tag, data, link: "https://shop.example/orders/7" });
  assert.deepEqual([pseudo.id, pseudo.tag, pseudo.accepted_at, pseudo.link], ["order-7", "order", "2026-11-25T09:30:00.120Z", "https://shop.example/orders/7"]);
});

for (const data of [undefined, "", "hello", "null", "7", "[]", `{"notification":7,"heartline":"x"}`, `{"notification":{"title":7,"app_badge":-1,"tag":{}}}`]) {
  test(`something is shown of ${data}`, () => {
    const { pseudo, options, badge } = readPush(data);
    assert.ok(pseudo.title);
    assert.equal(typeof options.tag, "string");
    assert.equal(badge, undefined);
  });
}

test("only web links are opened", () => {
  assert.equal(webLink("https://shop.example/7"), "https://shop.example/7");
  for (const link of [undefined, "", "javascript:alert(1)", "shop://7", "/dashboard/", "data:text/html,x"]) assert.equal(webLink(link), "");
});

test("a push that takes a notification off the screen", () => {
  const { dismissal } = readPush(`{"heartline":{"account":"anna","dismiss":true,"id":"order-7","tag":"order"}}`);
  assert.deepEqual(dismissal, { id: "order-7", tag: "order" });
  const counted = readPush(`{"heartline":{"account":"anna","badge":2,"dismiss":true,"id":"order-7","tag":"order"}}`);
  assert.deepEqual([counted.dismissal, counted.badge], [{ id: "order-7", tag: "order", badge: 2 }, 2]);
  assert.equal(readPush(full).dismissal, undefined);
});

test("FCM's data messages, as the broker makes them", async () => {
  const read = async (name: string) => readFCM(JSON.parse(await readFile(`../../fallback/fcm/testdata/${name}.json`, "utf8")).message.data);
  const got = await read("data");
  assert.ok(got && "pseudo" in got);
  assert.deepEqual([got.pseudo.id, got.pseudo.title, got.pseudo.tag, got.pseudo.pushed, got.pseudo.extra], ["order-7", "Order <7>", "order", true, { trace: "abc" }]);
  const dismissal = await read("dismissal");
  assert.ok(dismissal && "dismissal" in dismissal);
  assert.equal(dismissal.dismissal.id, "order-7");
  for (const data of [undefined, {}, { heartline: "x" }, { heartline: "7" }, { heartline: "{}" }]) assert.equal(readFCM(data), undefined);
});
