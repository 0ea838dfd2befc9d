import assert from "node:assert/strict";
import { appendFile, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { keep, type Item, type Store } from "../src/core/shown.js";
import { keyValueStore, memoryStore, type KeyValue } from "../src/core/stores.js";
import { fileStore, type FileStore } from "../src/node/index.js";

const item = (id: string, more: Partial<Item> = {}): Item => ({ owner: "anna/phone", id, arrived: 1, ...more });
const registered = { owner: "anna/phone", account: "anna", device: "phone", key: "BAEC", endpoint: "https://push.example/1" };

class Disk implements KeyValue {
  readonly entries = new Map<string, string>();
  fail = false;
  async getItem(key: string) { return this.entries.get(key) ?? null; }
  async setItem(key: string, value: string) {
    if (this.fail) throw new Error("the disk is full");
    this.entries.set(key, value);
  }
  async removeItem(key: string) { this.entries.delete(key); }
}

async function folder(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "heartline-client-"));
  t.after(() => rm(dir, { recursive: true }));
  return dir;
}

// again returns a store, and what a restart makes of it.
const stores: Record<string, (t: TestContext) => Promise<{ open(): Promise<Store>; durable: boolean }>> = {
  async memory() {
    const s = memoryStore();
    return { open: async () => s, durable: false };
  },
  async "key-value"() {
    const disk = new Disk();
    return { open: async () => keyValueStore(disk), durable: true };
  },
  async file(t) {
    const path = join(await folder(t), "shown");
    let last: FileStore | undefined;
    t.after(() => last?.close());
    return { open: async () => { await last?.close(); return (last = await fileStore(path)); }, durable: true };
  },
};

for (const [name, make] of Object.entries(stores)) {
  test(`the ${name} store keeps items in order, and their changes`, async (t) => {
    const { open } = await make(t);
    let s = await open();
    for (const id of ["a", "b", "c"]) await s.put(item(id, { tag: id === "c" ? "x" : "y" }));
    await s.put(item("a", { tag: "y", shown: "tip" }));
    await s.put({ ...item("a"), owner: "ben/phone" });
    await s.setRegistered(registered);
    for (let round = 0; round < 2; round++, s = await open()) {
      assert.deepEqual((await s.list("anna/phone")).map((i) => i.id), ["a", "b", "c"]);
      assert.equal((await s.get("anna/phone", "a"))?.shown, "tip");
      assert.equal(await s.get("anna/phone", "z"), undefined);
      assert.deepEqual((await s.tagged("anna/phone", "y")).map((i) => i.id), ["a", "b"]);
      assert.deepEqual(await s.registered(), registered);
    }
    await s.forget("anna/phone");
    await s.setRegistered(undefined);
    for (let round = 0; round < 2; round++, s = await open()) {
      assert.deepEqual(await s.list("anna/phone"), []);
      assert.equal((await s.list("ben/phone")).length, 1);
      assert.equal(await s.registered(), undefined);
    }
  });

  test(`the ${name} store keeps the newest ${keep}`, async (t) => {
    const { open } = await make(t);
    const s = await open();
    await Promise.all(Array.from({ length: keep + 3 }, (_, n) => s.put(item(`n${n}`))));
    const ids = (await (await open()).list("anna/phone")).map((i) => i.id);
    assert.deepEqual([ids.length, ids[0], ids.at(-1)], [keep, "n3", `n${keep + 2}`]);
  });
}

test("a key-value store that fails has not kept it, and leaves nothing behind at the end", async () => {
  const disk = new Disk();
  const s = keyValueStore(disk);
  disk.fail = true;
  await assert.rejects(s.put(item("a")), /disk is full/);
  disk.fail = false;
  assert.equal(await s.get("anna/phone", "a"), undefined);
  await s.put(item("a"));
  await s.forget("anna/phone");
  assert.equal(disk.entries.size, 0);
});

test("a file that a crash has cut off, and one that is another's", async (t) => {
  const path = join(await folder(t), "shown");
  let s = await fileStore(path);
  await s.put(item("a"));
  await s.close();
  await appendFile(path, `{"item":{"owner":"anna/phone","id":"b`);
  s = await fileStore(path);
  await s.put(item("c"));
  assert.deepEqual((await s.list("anna/phone")).map((i) => i.id), ["a", "c"]);
  await s.close();
  s = await fileStore(path);
  assert.deepEqual((await s.list("anna/phone")).map((i) => i.id), ["a", "c"]);
  await s.close();
  assert.equal((await stat(path)).mode & 0o077, 0); // nobody else reads it

  await writeFile(path, "users:\n");
  await assert.rejects(fileStore(path), /line 1 is no record of shown notifications/);
  assert.equal(await readFile(path, "utf8"), "users:\n");
});

test("the file does not grow with the number of changes", async (t) => {
  const path = join(await folder(t), "shown");
  const s = await fileStore(path);
  t.after(() => s.close());
  await Promise.all(Array.from({ length: 8 * keep + 10 }, (_, n) => s.put(item("a", { arrived: n }))));
  assert.equal((await readFile(path, "utf8")).trim().split("\n").length < 20, true);
  assert.equal((await s.get("anna/phone", "a"))?.arrived, 8 * keep + 9);
});
