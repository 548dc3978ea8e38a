// Build client.js, worker.js, htmx.js, stream.js, their source maps and client.d.ts.
// Usage: node build.mjs [directory]; default: the package's static files, and dist/ for npm.

import { build } from "esbuild";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

const here = fileURLToPath(new URL(".", import.meta.url));
const target = process.argv[2] ?? join(here, "../django_wsmux/static/django_wsmux");

/** Write a file, unless it is current: others may be reading it. */
function write(path, text) {
  if (!existsSync(path) || readFileSync(path, "utf8") !== text) writeFileSync(path, text);
}

const { version } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));
const banner = { js: `// django_wsmux ${version}, BSD-3-Clause` };

const entries = { client: "index.ts", worker: "worker.ts", htmx: "htmx.ts", stream: "stream.ts" };
for (const [name, entry] of Object.entries(entries)) {
  const { outputFiles } = await build({
    absWorkingDir: here,
    entryPoints: [join(here, "src", entry)],
    // Written below: the source map must not depend on the target.
    outfile: join(here, `${name}.js`),
    write: false,
    bundle: true,
    format: "esm",
    target: "es2022",
    minify: true,
    // Names that are the client's own become short. Fields that a constructor sets are declared in the
    // source with `declare`, which adds no code.
    mangleProps: /^_/,
    sourcemap: true,
    banner,
  });
  for (const { path, text } of outputFiles) write(join(target, basename(path)), text);
}

// One file of types: the declarations of types.ts, which imports nothing, and of index.ts.
const scratch = mkdtempSync(join(tmpdir(), "client"));
const tsc = join(here, "node_modules/.bin/tsc");
execFileSync(tsc, ["--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--outDir", scratch], {
  cwd: here,
  stdio: "inherit",
});
const declarations = ["types", "index"]
  .map((name) => readFileSync(join(scratch, `${name}.d.ts`), "utf8"))
  .join("\n")
  .replace(/^(import|export) .* from .*;\n/gm, "")
  .replace(/^(\/\/ .*\n)+/gm, "");
write(join(target, "client.d.ts"), `// Types of client.js, built from client/src.\n\n${declarations.trim()}\n`);
rmSync(scratch, { recursive: true });

if (!process.argv[2]) {
  const dist = join(here, "dist");
  mkdirSync(dist, { recursive: true });
  for (const name of readdirSync(target)) {
    if (/^(client|worker|htmx|stream)\./.test(name)) write(join(dist, name), readFileSync(join(target, name), "utf8"));
  }
}
