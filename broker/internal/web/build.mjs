// Builds dist/ (the web terminal) and dist-dashboard/, which the Go package embeds: index.html, sw.js and the manifest under names that
// stay, everything else under names that change with its content.
import * as esbuild from "esbuild";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";

const out = "dist";
// The JavaScript client, as clients/js/build.mjs has compiled it.
const client = "../../../clients/js/";
const { name, exports } = JSON.parse(await readFile(client + "package.json", "utf8"));
const alias = Object.fromEntries(["", "/browser", "/worker"].map((part) => [name + part, resolve(client, exports["." + part].default)]));
const common = {
  alias,
  bundle: true, minify: true, format: "esm", target: "es2022", legalComments: "none",
  outdir: join(out, "assets"), entryNames: "[name]-[hash]", assetNames: "[name]-[hash]", metafile: true, logLevel: "warning",
};

// bundle builds one entry point and returns its address, as the page has it.
async function bundle(entry, more = {}) {
  const { metafile } = await esbuild.build({ ...common, ...more, entryPoints: [entry] });
  const [path] = Object.entries(metafile.outputs).find(([, o]) => o.entryPoint === entry);
  return "assets/" + basename(path);
}

await rm(out, { recursive: true, force: true });
await mkdir(join(out, "assets"), { recursive: true });
const timer = await bundle(client + "dist/browser/timer.js");
const script = await bundle("src/main.ts", { define: { TIMER_WORKER: JSON.stringify(timer) } });
const style = await bundle("src/style.css");
const icon = await bundle("src/icon.svg", { loader: { ".svg": "copy" } });
await esbuild.build({ ...common, entryPoints: ["src/worker/sw.ts"], outdir: out, entryNames: "[name]" });

const names = { script, style, icon };
for (const size of ["180", "192", "512"]) {
  names["icon" + size] = await bundle(`src/icons/icon${size}.png`, { loader: { ".png": "copy" } });
}
for (const name of ["index.html", "manifest.webmanifest"]) {
  let text = await readFile(join("src", name), "utf8");
  for (const [key, address] of Object.entries(names)) text = text.replaceAll(`{{${key}}}`, address);
  await writeFile(join(out, name), text);
}

// The dashboard, into a folder of its own.
const board = join(out + "-dashboard", "assets");
await rm(out + "-dashboard", { recursive: true, force: true });
await mkdir(board, { recursive: true });
const parts = {
  script: await bundle("dashboard/main.ts", { outdir: board }),
  style: await bundle("dashboard/style.css", { outdir: board }),
  icon: await bundle("src/icon.svg", { outdir: board, loader: { ".svg": "copy" } }),
};
let overview = await readFile("dashboard/index.html", "utf8");
for (const [name, address] of Object.entries(parts)) overview = overview.replaceAll(`{{${name}}}`, address);
await writeFile(join(out + "-dashboard", "index.html"), overview);

// Whoever passes a binary on passes these packages on, and their licences with it.
let licences = "The pages hold code of these packages.\n";
for (const at of [".", client]) {
  const lock = JSON.parse(await readFile(join(at, "package-lock.json"), "utf8"));
  for (const [path, p] of Object.entries(lock.packages).sort()) {
    if (path === "" || p.dev) continue;
    licences += `\n== ${path.replace(/^.*node_modules\//, "")} ${p.version} (${p.license ?? "see below"})\n`;
    const file = (await readdir(join(at, path))).find((f) => /^(licen[cs]e|copying)/i.test(f));
    if (file) licences += "\n" + (await readFile(join(at, path, file), "utf8")).trim() + "\n";
  }
}
for (const folder of [out, out + "-dashboard"]) await writeFile(join(folder, "licences.txt"), licences);
