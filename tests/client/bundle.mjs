// Bundle a program for a page, as projects do. Arguments: the program, the client, the bundle.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const packages = new URL("../../client/node_modules/", import.meta.url);
const { build } = createRequire(packages)("esbuild");
const [program, client, bundle] = process.argv.slice(2);

await build({
  entryPoints: [program],
  outfile: bundle,
  bundle: true,
  alias: { "django-wsmux": client },
  nodePaths: [fileURLToPath(packages)],
  define: {
    "process.env.NODE_ENV": '"development"',
    __VUE_OPTIONS_API__: "true",
    __VUE_PROD_DEVTOOLS__: "false",
    __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
  },
  logLevel: "warning",
});
