// Validates an AsyncAPI document with AsyncAPI's own parser: node validate.mjs FILE
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(await readFile(process.argv[2], "utf8"));
const errors = diagnostics.filter((found) => found.severity === 0);
for (const { message, path } of errors) console.error(`${path.join("/")}: ${message}`);
if (!document || errors.length > 0) process.exit(1);
const messages = document.components().messages().all();
console.log(`AsyncAPI ${document.version()}: ${messages.length} messages`);
