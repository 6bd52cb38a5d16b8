// The life of an application by Svix's official JavaScript library, unchanged, against our server.
//
//   node life.mjs svix|svix-1        the second and the first generation of the library
//
// Prints each thing that it did; a mismatch is printed with what was found, and the exit code is 1 at the end.
// Needs BELLWIRE_URL and BELLWIRE_TOKEN (`run.py` above this folder sets them).

import { createServer } from "node:http";
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { Webhook as StandardWebhook } from "standardwebhooks";

const library = process.argv[2] ?? "svix";
const { Svix, Webhook, ApiException } = await import(library);
const { BELLWIRE_URL: url, BELLWIRE_TOKEN: token } = process.env;
const svix = new Svix(token, { serverUrl: url });

const failures = [];
function check(what, good, found) {
  console.log(`  ${good ? "ok      " : "MISMATCH"} ${what}${good ? "" : `: ${JSON.stringify(found)}`}`);
  if (!good) failures.push(what);
}

/** One chapter; an exception in it is a mismatch, and the next chapter begins. */
async function step(name, chapter) {
  console.log(name);
  try {
    await chapter();
  } catch (error) {
    check("went through", false, `${error} ${JSON.stringify(error.body ?? "")} ${error.stack?.split("\n")[1] ?? ""}`);
  }
}

async function refused(what, call, status, code) {
  try {
    check(what, false, await call());
  } catch (error) {
    const good = error instanceof ApiException && error.code === status && (!code || error.body?.code === code);
    check(what, good, { code: error.code, body: error.body, error: String(error) });
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const id = (headers) => headers["webhook-id"] ?? headers["svix-id"];

const arrived = [];
let failing = true;
const receiver = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    arrived.push({ path: request.url, headers: request.headers, body: Buffer.concat(chunks) });
    response.writeHead(request.url === "/fail" && failing ? 500 : 200).end("hello");
  });
});
await new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve));
const here = `http://127.0.0.1:${receiver.address().port}`;

async function wait(path, message, count = 1, ms = 8000) {
  for (const end = Date.now() + ms; ; await sleep(20)) {
    const found = arrived.filter((a) => a.path === path && id(a.headers) === message);
    if (found.length >= count || Date.now() > end) return found;
  }
}

async function eventually(read, good, ms = 8000) {
  for (const end = Date.now() + ms; ; await sleep(50)) {
    const value = await read();
    if (good(value) || Date.now() > end) return value;
  }
}

/** The second generation renamed some methods. */
const method = (resource, ...names) => resource[names.find((name) => name in resource)].bind(resource);
const eventTypesField = library === "svix" ? "eventTypes" : "filterTypes";

const uid = `life-${randomUUID()}`;
let app, main, fail, message;

await step("application", async () => {
  const made = await svix.application.create({ name: "Life", uid, metadata: { plan: "gold" } });
  app = made.id;
  check("create", made.uid === uid && made.metadata.plan === "gold" && made.createdAt instanceof Date, made);
  check("get by uid", (await svix.application.get(uid)).id === app);
  check("getOrCreate returns the existing one", (await svix.application.getOrCreate({ name: "Other", uid })).id === app);
  await refused("the same uid again: 409", () => svix.application.create({ name: "Life", uid }), 409);
  const updated = await method(svix.application, "upsert", "update")(app, { name: "Renamed", uid });
  check("update", updated.name === "Renamed", updated);
  const patched = await svix.application.patch(app, { metadata: { plan: "tin" } });
  check("patch", patched.name === "Renamed" && patched.metadata.plan === "tin", patched);
  check("list", (await svix.application.list({ limit: 250 })).data.some((a) => a.id === app));
  await refused("one that is not: 404 not_found", () => svix.application.get("app_" + "0".repeat(27)), 404, "not_found");
});

await step("event types", async () => {
  for (const name of ["invoice.paid", "invoice.sent"]) {
    await svix.eventType.create({ name, description: name, schemas: { 1: { type: "object" } } }).catch((error) => {
      check(`${name} exists from another life`, error.code === 409, error.body);
    });
  }
  check("get", (await svix.eventType.get("invoice.paid")).description === "invoice.paid");
  const names = (await svix.eventType.list()).data.map((t) => t.name);
  check("list is by name", names.join() === [...names].sort().join() && names.includes("invoice.sent"), names);
  check("patch", (await svix.eventType.patch("invoice.sent", { description: "changed" })).description === "changed");
  await refused("a bad name: 422", () => svix.eventType.create({ name: "no spaces", description: "x" }), 422);
});

await step("endpoints", async () => {
  main = await svix.endpoint.create(app, { url: `${here}/main`, uid: "main", description: "all" });
  fail = await svix.endpoint.create(app, { url: `${here}/fail`, [eventTypesField]: ["invoice.paid"] });
  check("create", main.uid === "main" && main.disabled === false, main);
  check("the filter is kept", fail[eventTypesField]?.join() === "invoice.paid", fail);
  check("list", (await svix.endpoint.list(app)).data.length === 2);
  check("patch", (await svix.endpoint.patch(app, main.id, { description: "patched" })).description === "patched");
  const updated = await method(svix.endpoint, "upsert", "update")(app, main.id, { url: `${here}/main`, uid: "main" });
  check("update replaces", updated.description === "", updated);
  await refused("not a URL: 422", () => svix.endpoint.create(app, { url: "nonsense" }), 422);
  await method(svix.endpoint, "setHeaders", "updateHeaders")(app, main.id, { headers: { "X-One": "1" } });
  await svix.endpoint.patchHeaders(app, main.id, { headers: { "X-Two": "2" } });
  const { headers } = await svix.endpoint.getHeaders(app, main.id);
  check("headers", Object.entries(headers).map(([k, v]) => `${k.toLowerCase()}=${v}`).sort().join() === "x-one=1,x-two=2", headers);
});

await step("a message arrives", async () => {
  const payload = { amount: 12.5, text: "ünïcode ✓", nested: { list: [1, null, true] } };
  message = await svix.message.create(app, { eventType: "invoice.paid", eventId: "event-1", payload });
  check("create", message.id.startsWith("msg_") && message.eventId === "event-1", message);
  const [{ headers, body }, ...more] = await wait("/main", message.id);
  check("arrives once", more.length === 0, more.length);
  check("the payload is what we sent", body.toString() === JSON.stringify(payload), body.toString());
  const { key } = await svix.endpoint.getSecret(app, main.id);
  new Webhook(key).verify(body.toString(), headers);
  check("svix's Webhook verifies it", true);
  const standard = Object.fromEntries(["id", "timestamp", "signature"].map((n) => [`webhook-${n}`, headers[`webhook-${n}`] ?? headers[`svix-${n}`]]));
  check("standardwebhooks verifies it", new StandardWebhook(key).verify(body.toString(), standard).amount === 12.5);
  check("headers of the endpoint", headers["x-one"] === "1" && headers["x-two"] === "2", headers);
  const created = () => svix.message.create(app, { eventType: "a.b", payload: { x: 1 } }, { idempotencyKey: uid });
  check("the same idempotency key gives the same message", (await created()).id === (await created()).id);
  await refused("with another body: 409", () => svix.message.create(app, { eventType: "a.b", payload: { x: 2 } }, { idempotencyKey: uid }), 409);
  await refused("the same event id again: 409", () => svix.message.create(app, { eventType: "a.b", eventId: "event-1", payload: {} }), 409);
});

await step("reading", async () => {
  const got = await svix.message.get(app, message.id, { withContent: true });
  check("get with content", got.payload.amount === 12.5, got);
  for (let n = 0; n < 12; n++) await svix.message.create(app, { eventType: "page.turned", payload: { n } });
  const every = (await svix.message.list(app, { limit: 250 })).data.map((m) => m.id);
  const pages = [];
  let page, iterator, previous;
  do {
    page = await svix.message.list(app, { limit: 5, iterator });
    pages.push(page.data.map((m) => m.id));
    if (pages.length === 2) previous = page.prevIterator;
    iterator = page.iterator;
  } while (!page.done);
  check("forwards, page by page, is the whole", pages.flat().join() === every.join(), pages.map((p) => p.length));
  const back = await svix.message.list(app, { limit: 5, iterator: previous });
  check("prevIterator leads back one page", back.data.map((m) => m.id).join() === pages[0].join(), back.data.length);
  check("by event type", (await svix.message.list(app, { eventTypes: ["invoice.paid", "none"] })).data.length === 1);
  await refused("limit above 250: 422", () => svix.message.list(app, { limit: 251 }), 422);
});

await step("attempts, resend, recover", async () => {
  const byMessage = () => svix.messageAttempt.listByMsg(app, message.id, { endpointId: main.id, withContent: true });
  const [attempt] = (await eventually(byMessage, (l) => l.data.length === 1)).data;
  check("success, with the response", attempt.status === 0 && attempt.responseStatusCode === 200 && attempt.response === "hello", attempt);
  check("get one", (await svix.messageAttempt.get(app, message.id, attempt.id)).id === attempt.id);
  const byEndpoint = () => svix.messageAttempt.listByEndpoint(app, fail.id);
  const failed = (await eventually(byEndpoint, (l) => l.data.length >= 3)).data;
  check("three failed attempts by the schedule", failed.map((a) => a.status).join() === "2,2,2", failed);
  const stats = await svix.endpoint.getStats(app, fail.id);
  check("stats", stats.fail === 1 && stats.success === 0, stats);
  failing = false;
  await svix.messageAttempt.resend(app, message.id, fail.id);
  check("resend", (await wait("/fail", message.id, 4)).length === 4);
  failing = true;
  const since = new Date(Date.now() - 1000);
  const lost = [];
  // Few enough that the endpoint is not taken for dead and left alone for a while.
  for (let n = 0; n < 2; n++) lost.push(await svix.message.create(app, { eventType: "invoice.paid", payload: { n } }));
  await eventually(() => svix.endpoint.getStats(app, fail.id), (s) => s.fail === 2);
  failing = false;
  const task = await svix.endpoint.recover(app, fail.id, { since });
  check("recover is a task", task.id.startsWith("qtask_") && task.task === "endpoint.recover", task);
  for (const { id } of lost) check("  a lost one arrives", (await wait("/fail", id, 4)).length === 4);
  const messages = (await svix.messageAttempt.listAttemptedMessages(app, fail.id)).data;
  check("attempted messages", messages.length === 3, messages.length);
  const destinations = (await svix.messageAttempt.listAttemptedDestinations(app, message.id)).data;
  check("attempted destinations", destinations.length === 2, destinations);
});

await step("secrets, disabling, an application's token", async () => {
  const old = (await svix.endpoint.getSecret(app, main.id)).key;
  await svix.endpoint.rotateSecret(app, main.id, {});
  const { key } = await svix.endpoint.getSecret(app, main.id);
  check("rotate gives a new one", key !== old);
  const sent = await svix.message.create(app, { eventType: "a.b", payload: {} });
  const [{ headers, body }] = await wait("/main", sent.id);
  for (const each of [old, key]) new Webhook(each).verify(body.toString(), headers);
  check("in the grace period both verify", true);
  await svix.endpoint.patch(app, main.id, { disabled: true });
  const quiet = await svix.message.create(app, { eventType: "a.b", payload: {} });
  check("a disabled endpoint gets nothing", (await wait("/main", quiet.id, 1, 500)).length === 0);
  const made = execFileSync(process.env.BELLWIRE, ["token", "--application", app], { encoding: "utf8" });
  const portal = new Svix(made.trim(), { serverUrl: url });
  check("an application's token reads its own application", (await portal.endpoint.list(app)).data.length === 2);
  await refused("  and lists no applications: 403", () => portal.application.list(), 403);
  await refused("a wrong token: 401", () => new Svix("nonsense", { serverUrl: url }).application.list(), 401, "authentication_failed");
});

await step("the end", async () => {
  await svix.endpoint.delete(app, fail.id);
  await refused("a deleted endpoint: 404", () => svix.endpoint.get(app, fail.id), 404);
  await svix.application.delete(app);
  await refused("a deleted application: 404", () => svix.application.get(app), 404);
});

console.log(`javascript, ${library}: ${failures.length} mismatches${failures.map((f) => `\n  ${f}`).join("")}`);
receiver.closeAllConnections?.();
receiver.close();
process.exit(failures.length ? 1 : 0);
