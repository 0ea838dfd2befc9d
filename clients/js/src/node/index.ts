/** A durable store for Node.js. */
import { open, readFile, rename, rm, truncate } from "node:fs/promises";
import { keep, type Item, type Store } from "../core/shown.js";
import type { Registered } from "../core/registration.js";
import { Memory, newLock } from "../core/stores.js";

type Line = { item: Item } | { forget: string } | { registered: Registered | null };

/** A store in a file. close it. */
export interface FileStore extends Store {
  close(): Promise<void>;
}

/**
 * Opens a store in a file, which is made if it is missing: a line for each change, on the
 * disk when put resolves. One process at a time uses it. A last line that a crash has cut
 * off is dropped; any other line that is not ours is an error that names it.
 */
export async function fileStore(path: string): Promise<FileStore> {
  const memory = new Memory();
  const once = newLock();
  let lines = 0;
  let most = 8 * keep; // lines before the file is written afresh

  const apply = (l: Line): void => {
    if ("item" in l) memory.put(l.item);
    else if ("forget" in l) memory.forget(l.forget);
    else if ("registered" in l) memory.registered = l.registered ?? undefined;
    else throw new Error("none of ours");
  };

  const bytes = await readFile(path).catch((err: NodeJS.ErrnoException) => {
    if (err.code === "ENOENT") return Buffer.alloc(0);
    throw err;
  });
  let size = bytes.lastIndexOf("\n") + 1; // of the whole lines
  for (const line of bytes.toString("utf8", 0, size).split("\n").slice(0, -1)) {
    lines++;
    try {
      apply(JSON.parse(line) as Line);
    } catch (err) {
      throw new Error(`${path}: line ${lines} is no record of shown notifications; is it the right file? Remove it to begin with an empty one`, { cause: err });
    }
  }
  let file = await open(path, "a", 0o600);
  let torn = true; // there may be more in the file than the whole lines
  await mend().catch(() => undefined); // the next write tries again

  // mend cuts off what a failed write has left behind, or the next line would be glued to it.
  async function mend(): Promise<void> {
    await truncate(path, size); // Windows cannot truncate a file that is open for appending
    torn = false;
  }

  async function append(group: Line[]): Promise<void> {
    const data = Buffer.from(group.map((l) => JSON.stringify(l) + "\n").join(""));
    if (torn) await mend();
    torn = true;
    try {
      await file.appendFile(data);
      await file.datasync();
    } catch (err) {
      await mend().catch(() => undefined);
      throw err;
    }
    torn = false;
    size += data.length;
  }

  // compact writes the items alone into a new file, which replaces the old one.
  async function compact(): Promise<void> {
    const fresh = path + ".new";
    const all: Line[] = memory.all().map((item) => ({ item }));
    if (memory.registered) all.push({ registered: memory.registered });
    const data = Buffer.from(all.map((l) => JSON.stringify(l) + "\n").join(""));
    await rm(fresh, { force: true }); // a crash may have left one
    const next = await open(fresh, "a", 0o600);
    try {
      await next.appendFile(data);
      await next.sync();
      await rename(fresh, path);
    } catch (err) {
      await next.close();
      await rm(fresh, { force: true });
      throw err;
    }
    const old = file;
    [file, size, lines, torn] = [next, data.length, all.length, false];
    await old.close();
  }

  // Changes that come while others are written share the next write.
  let waiting: Line[] = [];

  async function flush(): Promise<void> {
    const group = waiting;
    waiting = [];
    await append(group);
    group.forEach(apply);
    lines += group.length;
    if (lines < most) return;
    most = 8 * keep;
    // The changes are on the disk, and the old file still grows if there is no room for a new one.
    await compact().catch(() => { most = lines + keep; });
  }

  let writing: Promise<void> | undefined; // the flush that takes the lines of waiting
  function write(l: Line): Promise<void> {
    waiting.push(l);
    writing ??= once("file", () => {
      writing = undefined;
      return flush();
    });
    return writing;
  }

  return {
    get: async (owner, id) => memory.get(owner, id),
    put: (item) => write({ item }),
    tagged: async (owner, tag) => memory.tagged(owner, tag),
    list: async (owner) => memory.list(owner),
    registered: async () => memory.registered,
    setRegistered: (r) => write({ registered: r ?? null }),
    forget: (owner) => write({ forget: owner }),
    close: () => once("file", () => file.close()),
  };
}
