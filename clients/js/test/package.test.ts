// The package as npm packs it, and the platforms that it runs on.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import vm from "node:vm";
import * as esbuild from "esbuild";
import { eventually, Server } from "./server.js";

async function modules(dir: string): Promise<string[]> {
  return (await readdir(dir)).filter((f) => f.endsWith(".js")).map((f) => join(dir, f));
}

test("the core imports nothing and uses no platform's objects", async () => {
  const files = await modules("dist/core");
  assert.ok(files.length > 5);
  for (const file of files) {
    const text = await readFile(file, "utf8");
    for (const [, from] of text.matchAll(/\b(?:from|import)\s*\(?"([^"]+)"/g)) assert.match(from!, /^\.\//, file);
    const code = text.replace(/\/\*[^]*?\*\/|\/\/.*|"(?:[^"\\]|\\.)*"|`[^`]*`/g, "");
    assert.doesNotMatch(code, /\b(document|window|navigator|localStorage|process|Buffer|require)\b/, file);
  }
  assert.deepEqual([...(await readFile("dist/index.js", "utf8")).matchAll(/from "([^"]+)"/g)].map((m) => m[1]), ["mqtt", "./core/index.js", "./core/index.js"]);
});

test("React Native: bundled as Metro does, in a realm that has only its globals", async (t) => {
  const s = await Server.start(t);
  const bundle = await esbuild.build({
    stdin: {
      contents: `
        import { connect, keyValueStore } from "@heartline-mqtt/client";
        device = connect({ url, account: "anna", device: "phone", store: keyValueStore(AsyncStorage), show: (p) => { shown.push(p.title); }, status: (s) => { statuses.push(s.kind); } });`,
      resolveDir: process.cwd(),
    },
    bundle: true, write: false, format: "iife", target: "es2022", conditions: ["react-native"], mainFields: ["react-native", "browser", "main"],
  });
  const code = bundle.outputFiles[0]!.text;
  const entries = new Map<string, string>();
  const { WebSocket } = await import("ws" as string);
  const realm: Record<string, any> = {
    setTimeout, clearTimeout, setInterval, clearInterval, queueMicrotask, console, WebSocket, AbortController, AbortSignal, Blob, ArrayBuffer, Uint8Array,
    setImmediate, clearImmediate, navigator: { product: "ReactNative" }, process: { env: { NODE_ENV: "production" } },
    url: s.ws, shown: [], statuses: [], device: undefined,
    AsyncStorage: {
      getItem: async (k: string) => entries.get(k) ?? null,
      setItem: async (k: string, v: string) => void entries.set(k, v),
      removeItem: async (k: string) => void entries.delete(k),
    },
  };
  realm["window"] = realm["global"] = realm["self"] = realm; // as React Native has them
  vm.runInNewContext(code, realm);
  t.after(() => realm["device"].close());
  await eventually(`up: ${realm["statuses"]}`, () => realm["statuses"].includes("up"));
  await s.until(await s.notify({ account: "anna", title: "Order 7" }), "received");
  assert.deepEqual([...realm["shown"]], ["Order 7"]);
  assert.equal(entries.size, 2); // the item and the index
  assert.equal(vm.runInNewContext("typeof document + typeof Buffer", realm), "undefinedundefined");
});

test("a web page: bundled by esbuild, small, and without Node.js", async () => {
  const bundle = await esbuild.build({
    stdin: {
      contents: `
        import { connect } from "@heartline-mqtt/client";
        import { browserLock, followPage, indexedDBStore, Tips, workerTimers } from "@heartline-mqtt/client/browser";
        console.log(connect, browserLock, followPage, indexedDBStore, Tips, workerTimers);`,
      resolveDir: process.cwd(),
    },
    bundle: true, write: false, minify: true, format: "esm", target: "es2022", platform: "browser",
  });
  const own = await esbuild.build({
    stdin: { contents: `export * from "@heartline-mqtt/client/core"; export * from "@heartline-mqtt/client/browser";`, resolveDir: process.cwd() },
    bundle: true, write: false, minify: true, format: "esm", platform: "browser",
  });
  assert.ok(own.outputFiles[0]!.contents.length < 24_000, `${own.outputFiles[0]!.contents.length} bytes of ours`);
  assert.ok(bundle.outputFiles[0]!.contents.length < 450_000, `${bundle.outputFiles[0]!.contents.length} bytes with MQTT.js`);
});

test("npm pack has what is needed and nothing else; a program installs it and type-checks", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "heartline-client-"));
  t.after(() => rm(dir, { recursive: true }));
  const [{ filename, files }] = JSON.parse(execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", dir], { encoding: "utf8" }));
  for (const { path } of files) assert.match(path, /^(dist\/.*\.(js|d\.ts)|package\.json|README\.md|LICENSE)$/);
  for (const path of ["README.md", "LICENSE", "dist/index.js", "dist/index.d.ts", "dist/browser/timer.js"]) assert.ok(files.some((f: { path: string }) => f.path === path), path);

  const at = join(dir, "node_modules", "@heartline-mqtt", "client");
  await mkdir(at, { recursive: true });
  execFileSync("tar", ["-xzf", join(dir, filename), "--strip-components=1", "-C", at]);
  await symlink(resolve("node_modules"), join(at, "node_modules")); // its dependencies
  await writeFile(join(dir, "package.json"), `{"type":"module"}`);
  await writeFile(join(dir, "app.ts"), `
    import { connect, keyValueStore, type Device, type Pseudo } from "@heartline-mqtt/client";
    const device: Device = connect({ url: "wss://x/mqtt", account: "anna", device: "anna-1", show(p: Pseudo) { void p.title; } });
    void device.register({ fcm: { token: "x" } });
    void device.register({ fcm: null });
    // @ts-expect-error no such server
    void device.register({ adm: { token: "x" } });
    // @ts-expect-error a device shows
    connect({ url: "wss://x/mqtt", account: "anna", device: "anna-1" });
    void keyValueStore;`);
  await writeFile(join(dir, "page.ts"), `
    import { indexedDBStore, Tips } from "@heartline-mqtt/client/browser";
    export const parts = [indexedDBStore(), Tips];`);
  const tsc = resolve("node_modules/typescript/bin/tsc");
  for (const resolution of [["--module", "nodenext"], ["--module", "esnext", "--moduleResolution", "bundler"]]) {
    // Without skipLibCheck and without the types of Node.js: ours must do alone.
    for (const [file, lib] of [["app.ts", "es2022"], ["page.ts", "es2022,dom"]] as const) {
      execFileSync(process.execPath, [tsc, "--ignoreConfig", "--noEmit", "--strict", "--target", "es2022", "--lib", lib, "--types", "", ...resolution, join(dir, file)], { stdio: "inherit" });
    }
  }
  const out = execFileSync(process.execPath, ["--input-type=module", "-e", `
    import * as client from "@heartline-mqtt/client";
    import { fileStore } from "@heartline-mqtt/client/node";
    console.log(typeof client.connect, typeof fileStore);`], { cwd: dir, encoding: "utf8" });
  assert.equal(out, "function function\n");
});
