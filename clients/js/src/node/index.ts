/** A durable store for Node.js. */
import { open, readFile, rename, rm, type FileHandle } from "node:fs/promises";
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

  const apply = (l: Line): void => {
    if ("item" in l) memory.put(l.item);
    else if ("forget" in l) memory.forget(l.forget);
    else if ("registered" in l) memory.registered = l.registered ?? undefined;
    else throw new Error("none of ours");
  };

  const text = await readFile(path, "utf8").catch((err: NodeJS.ErrnoException) => {
    if (err.code === "ENOENT") return "";
    throw err;
  });
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  for (const line of whole.split("\n").slice(0, -1)) {
    lines++;
    try {
      apply(JSON.parse(line) as Line);
    } catch (err) {
      throw new Error(`${path}: line ${lines} is no record of shown notifications; is it the right file? Remove it to begin with an empty one`, { cause: err });
    }
  }
  let file = await compact();

  // compact writes the items alone into a new file, which replaces the old one.
  async function compact(): Promise<FileHandle> {
    const fresh = path + ".new";
    const all: Line[] = memory.all().map((item) => ({ item }));
    if (memory.registered) all.push({ registered: memory.registered });
    const next = await open(fresh, "w", 0o600);
    try {
      await next.writeFile(all.map((l) => JSON.stringify(l) + "\n").join(""));
      await next.sync();
      await rename(fresh, path);
    } catch (err) {
      await next.close();
      await rm(fresh, { force: true });
      throw err;
    }
    lines = all.length;
    return next;
  }

  // Changes that come while others are written share the next write.
  let waiting: Line[] = [];

  async function flush(): Promise<void> {
    const group = waiting;
    waiting = [];
    await file.appendFile(group.map((l) => JSON.stringify(l) + "\n").join(""));
    await file.datasync();
    group.forEach(apply);
    if ((lines += group.length) < 8 * keep) return;
    const old = file;
    file = await compact();
    await old.close();
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
