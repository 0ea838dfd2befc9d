// Bundles the unit tests and runs them with Node's own test runner: npm test.
import * as esbuild from "esbuild";
import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { join } from "node:path";

// Inside the package, so that Node finds its dependencies.
const out = await mkdtemp(join("node_modules", ".tests-"));
const files = (await readdir("test")).filter((f) => f.endsWith(".test.ts")).map((f) => join("test", f));
await esbuild.build({ entryPoints: files, bundle: true, format: "esm", platform: "node", packages: "external", outdir: out, outExtension: { ".js": ".mjs" }, logLevel: "warning" });
const built = (await readdir(out)).map((f) => join(out, f));
const { status } = spawnSync(process.execPath, ["--test", "--test-reporter=spec", ...built], { stdio: "inherit" });
await rm(out, { recursive: true });
process.exit(status ?? 1);
