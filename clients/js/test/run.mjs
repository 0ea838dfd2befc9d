// Compiles the tests and runs them with Node.js's own test runner: npm test. Arguments go
// to it: npm test -- --test-name-pattern=sign
import { spawnSync } from "node:child_process";
import { readdir, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(import.meta.url);
const tsc = join(dirname(require.resolve("typescript/package.json")), "bin", "tsc");
process.chdir(join(dirname(new URL(import.meta.url).pathname), ".."));
await rm("build", { recursive: true, force: true });
const compiled = spawnSync(process.execPath, [tsc, "-p", "tsconfig.test.json"], { stdio: "inherit" });
if (compiled.status !== 0) process.exit(compiled.status ?? 1);
const files = (await readdir("build/test")).filter((f) => f.endsWith(".test.js")).map((f) => join("build/test", f));
const { status } = spawnSync(process.execPath, ["--test", "--test-reporter=spec", ...process.argv.slice(2), ...files], { stdio: "inherit" });
process.exit(status ?? 1);
