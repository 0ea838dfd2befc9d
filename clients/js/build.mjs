// Compiles src/ into dist/, each part with the types of its platform alone: the core has
// those of none.
import { spawnSync } from "node:child_process";
import { rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(import.meta.url);
const tsc = join(dirname(require.resolve("typescript/package.json")), "bin", "tsc");
process.chdir(import.meta.dirname ?? dirname(new URL(import.meta.url).pathname));
await rm("dist", { recursive: true, force: true });
for (const config of ["tsconfig.json", "tsconfig.index.json", "tsconfig.browser.json", "tsconfig.worker.json", "tsconfig.node.json"]) {
  const { status } = spawnSync(process.execPath, [tsc, "-p", config], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
