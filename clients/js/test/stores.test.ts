import assert from "node:assert/strict";
import { appendFile, mkdir, mkdtemp, open, readFile, rm, stat, writeFile, type FileHandle } from "node:fs/promises";
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
  failRemove = false;
  async getItem(key: string) { return this.entries.get(key) ?? null; }
  async setItem(key: string, value: string) {
    if (this.fail) throw new Error("the disk is full");
    this.entries.set(key, value);
  }
  async removeItem(key: string) {
    if (this.failRemove) throw new Error("the disk fails");
    this.entries.delete(key);
  }
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

test("a full key-value store drops its oldest items for a new one", async () => {
  class Small extends Disk {
    room = Infinity;
    override async setItem(key: string, value: string) {
      const size = [...this.entries].reduce((all, [k, v]) => all + (k === key ? 0 : v.length), value.length);
      if (size > this.room) throw Object.assign(new Error("database or disk is full (code 13 SQLITE_FULL)"), { code: 13 });
      await super.setItem(key, value);
    }
  }
  const disk = new Small();
  const s = keyValueStore(disk);
  const ids = async (of: Store) => (await of.list("anna/phone")).map((i) => i.id);
  for (let n = 0; n < 8; n++) await s.put(item(`n${n}`));
  disk.room = [...disk.entries.values()].reduce((all, v) => all + v.length, 0);
  await s.put(item("new"));
  assert.deepEqual(await ids(s), ["n2", "n3", "n4", "n5", "n6", "n7", "new"]);
  assert.deepEqual(await ids(keyValueStore(disk)), await ids(s));
  await s.put(item("n3", { read: true })); // a change, too
  assert.equal((await keyValueStore(disk).get("anna/phone", "n3"))?.read, true);
  await s.forget("anna/phone");
  assert.equal(disk.entries.size, 0);

  // Another failure costs no item.
  for (let n = 0; n < 8; n++) await s.put(item(`n${n}`));
  const setItem = disk.setItem;
  disk.setItem = () => Promise.reject(new Error("database is locked (code 5 SQLITE_BUSY)"));
  await assert.rejects(s.put(item("new")), /locked/);
  disk.setItem = setItem;
  assert.equal((await ids(s)).length, 8);
});

test("a damaged entry of a key-value store costs no other, and no notification", async (t) => {
  const said = t.mock.method(console, "error", () => {});
  const disk = new Disk();
  let s = keyValueStore(disk);
  for (const id of ["a", "b", "c"]) await s.put(item(id));
  await s.setRegistered(registered);
  disk.entries.set("heartline/anna/phone/b", `{"owner":"anna/ph`);
  disk.entries.set("heartline-registered", "");
  s = keyValueStore(disk);
  assert.deepEqual((await s.list("anna/phone")).map((i) => i.id), ["a", "c"]);
  assert.equal(await s.registered(), undefined);
  assert.match(String(said.mock.calls[0]?.arguments), /heartline\/anna\/phone\/b is damaged/);
  disk.entries.set("heartline/anna/phone", "[");
  s = keyValueStore(disk);
  await s.put(item("d"));
  assert.deepEqual((await keyValueStore(disk).list("anna/phone")).map((i) => i.id), ["d"]);
});

test("a key-value store that cannot remove has kept the new, and removes the old later", async () => {
  const disk = new Disk();
  const s = keyValueStore(disk);
  for (let n = 0; n < keep; n++) await s.put(item(`n${n}`));
  disk.failRemove = true;
  await s.put(item("new"));
  assert.equal((await keyValueStore(disk).list("anna/phone")).at(-1)?.id, "new");
  await assert.rejects(s.forget("anna/phone"), /the disk fails/);
  disk.failRemove = false;
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

// handles has the methods of all open files, for a test that makes one fail.
async function handles(): Promise<FileHandle> {
  const any = await open("/dev/null");
  await any.close();
  return Object.getPrototypeOf(any);
}

const full = () => Object.assign(new Error("no space left on device"), { code: "ENOSPC" });

test("a write that fails leaves nothing in the file, and the next is not damaged by it", async (t) => {
  const path = join(await folder(t), "shown");
  const files = await handles();
  const { appendFile: append, datasync } = files;
  const ids = async () => {
    const again = await fileStore(path);
    await again.close();
    return (await again.list("anna/phone")).map((i) => i.id);
  };
  let s = await fileStore(path);
  await s.put(item("a"));

  // The disk takes the first of two lines, and half of the second.
  const half = t.mock.method(files, "appendFile", async function (this: FileHandle, data: Buffer) {
    await append.call(this, data.subarray(0, data.length - 10));
    throw full();
  });
  const results = await Promise.allSettled([s.put(item("b")), s.put(item("c")), s.put(item("d"))]);
  assert.deepEqual(results.map((r) => r.status), ["rejected", "rejected", "rejected"]);
  half.mock.restore();
  assert.equal(await s.get("anna/phone", "b"), undefined);
  assert.deepEqual(await ids(), ["a"]);
  await s.put(item("e"));
  assert.deepEqual(await ids(), ["a", "e"]);

  const unsynced = t.mock.method(files, "datasync", async function (this: FileHandle) {
    await datasync.call(this);
    throw new Error("input/output error");
  });
  await assert.rejects(s.put(item("f")), /input\/output/);
  unsynced.mock.restore();
  assert.deepEqual(await ids(), ["a", "e"]);
  await s.put(item("g"));
  await s.close();
  s = await fileStore(path);
  assert.deepEqual((await s.list("anna/phone")).map((i) => i.id), ["a", "e", "g"]);
  await s.close();
});

test("a disk without room for a new file does not refuse changes, and a store opens on it", async (t) => {
  const path = join(await folder(t), "shown");
  await mkdir(path + ".new"); // no file can be made here
  let s = await fileStore(path);
  const changes = (from: number) => Promise.all(Array.from({ length: 8 * keep + 10 }, (_, n) => s.put(item("a", { arrived: from + n }))));
  await changes(0);
  const { size } = await stat(path);
  await s.put(item("b"));
  assert.ok((await stat(path)).size > size);
  await s.close();
  s = await fileStore(path);
  t.after(() => s.close());
  assert.deepEqual((await s.list("anna/phone")).map((i) => i.arrived), [8 * keep + 9, 1]);
  await rm(path + ".new", { recursive: true });
  await changes(1);
  assert.ok((await stat(path)).size < size / 100); // there is room again
});

test("the file does not grow with the number of changes", async (t) => {
  const path = join(await folder(t), "shown");
  const s = await fileStore(path);
  t.after(() => s.close());
  await Promise.all(Array.from({ length: 8 * keep + 10 }, (_, n) => s.put(item("a", { arrived: n }))));
  assert.equal((await readFile(path, "utf8")).trim().split("\n").length < 20, true);
  assert.equal((await s.get("anna/phone", "a"))?.arrived, 8 * keep + 9);
});
