// Prints, as JSON, requests that vendors' own libraries for JavaScript have signed; or, where a library only verifies, that it
// has verified. Each: { library, preset, secret, url, headers, body }, and `path` if the sender signs the path that the source has.

import crypto from "node:crypto";
import Stripe from "stripe";
import { sign } from "@octokit/webhooks-methods";
import twilio from "twilio";
import { WebhooksHelper } from "square";
import { verifyKey } from "discord-interactions";
import { ApiVersion, LogSeverity, shopifyApi } from "@shopify/shopify-api";
import "@shopify/shopify-api/adapters/node";
import { Signature as HubSpot } from "@hubspot/api-client";
import { signRequest } from "@contentful/node-apps-toolkit";
import eventWebhook from "@sendgrid/eventwebhook";
import { validateSignature } from "@line/bot-sdk";
import { Paddle } from "@paddle/paddle-node-sdk";
import Mux from "@mux/mux-node";
import { Webhook as Svix } from "svix";
import jwt from "jsonwebtoken";
import { createSigner, httpbis } from "http-message-signatures";

const JSON_TYPE = { "content-type": "application/json" };
const cases = [];
const add = (library, preset, secret, headers, body, path) =>
  cases.push({ library, preset, secret, url: `https://hooks.example/${preset}?x=1`, headers, body, path });
const must = (verified, library) => {
  if (!verified) throw new Error(`${library} does not verify what we would send`);
};
const hmac = (key, text) => crypto.createHmac("sha256", key).update(text, "utf8").digest("base64");

{
  const secret = "whsec_test_0123456789abcdef";
  const body = JSON.stringify({ id: `evt_${crypto.randomUUID()}`, object: "event", type: "invoice.paid", amount: 12345678901234567 });
  const header = new Stripe("sk_test_none").webhooks.generateTestHeaderString({ payload: body, secret });
  add("npm stripe", "stripe", secret, { ...JSON_TYPE, "stripe-signature": header }, body);
}
{
  const secret = "It's a Secret to Everybody";
  const body = JSON.stringify({ action: "opened", title: "Grüße 🔔" });
  const headers = { ...JSON_TYPE, "x-github-event": "issues", "x-github-delivery": crypto.randomUUID() };
  add("npm @octokit/webhooks-methods", "github", secret, { ...headers, "x-hub-signature-256": await sign(secret, body) }, body);
}
{
  const secret = "0123456789abcdef0123456789abcdef";
  const params = { CallSid: "CA1", From: "+14158675309", To: "+18005551212", Body: "a & b = c +" };
  const signature = twilio.getExpectedTwilioSignature(secret, "https://hooks.example/twilio?x=1", params);
  const headers = { "content-type": "application/x-www-form-urlencoded", "x-twilio-signature": signature };
  add("npm twilio", "twilio", secret, headers, new URLSearchParams(params).toString());
}
{
  const secret = "square-signature-key-0123";
  const url = "https://hooks.example/square?x=1";
  const body = JSON.stringify({ event_id: crypto.randomUUID(), type: "payment.updated" });
  const signature = hmac(secret, url + body);
  must(await WebhooksHelper.verifySignature({ requestBody: body, signatureHeader: signature, signatureKey: secret, notificationUrl: url }), "square");
  add("npm square", "square", secret, { ...JSON_TYPE, "x-square-hmacsha256-signature": signature }, body);
}
{
  const { publicKey, privateKey } = crypto.generateKeyPairSync("ed25519");
  const key = publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("hex");
  const timestamp = String(Math.floor(Date.now() / 1000));
  const body = JSON.stringify({ type: 2, id: crypto.randomUUID(), token: "t" });
  const signature = crypto.sign(null, Buffer.from(timestamp + body), privateKey).toString("hex");
  must(await verifyKey(body, signature, timestamp, key), "discord-interactions");
  add("npm discord-interactions", "discord", key, { ...JSON_TYPE, "x-signature-ed25519": signature, "x-signature-timestamp": timestamp }, body);
}
{
  const secret = "shpss_0123456789abcdef";
  const shopify = shopifyApi({
    apiKey: "key", apiSecretKey: secret, hostName: "hooks.example", apiVersion: Object.values(ApiVersion).at(-1), isEmbeddedApp: false,
    logger: { level: LogSeverity.Error, log: () => {} },
  });
  const body = JSON.stringify({ id: 820982911946154508n.toString(), note: "a/b" });
  const headers = {
    ...JSON_TYPE, "x-shopify-topic": "orders/create", "x-shopify-hmac-sha256": hmac(secret, body), "x-shopify-webhook-id": crypto.randomUUID(),
    "x-shopify-api-version": "2026-10", "x-shopify-shop-domain": "a-shop.myshopify.com",
  };
  const rawRequest = { method: "POST", url: "/", headers };
  must((await shopify.webhooks.validate({ rawBody: body, rawRequest, rawResponse: {} })).valid, "@shopify/shopify-api");
  add("npm @shopify/shopify-api", "shopify", secret, headers, body);
}

const now = Math.floor(Date.now() / 1000);
const secret = "a secret of 32 characters or more";
const hex = (text) => crypto.createHmac("sha256", secret).update(text, "utf8").digest("hex");
{
  const body = JSON.stringify([{ eventId: now, subscriptionType: "contact.creation" }]);
  const of = (version, preset) =>
    HubSpot.getSignature("POST", version, {
      clientSecret: secret, url: `https://hooks.example/${preset}?x=1`, requestBody: body, timestamp: now * 1000,
    });
  const time = { "x-hubspot-request-timestamp": String(now * 1000) };
  add("npm @hubspot/api-client v3", "hubspot", secret, { ...JSON_TYPE, ...time, "x-hubspot-signature-v3": of("v3", "hubspot") }, body);
  add("npm @hubspot/api-client v2", "hubspot-v2", secret, { ...JSON_TYPE, "x-hubspot-signature": of("v2", "hubspot-v2") }, body);
  add("npm @hubspot/api-client v1", "hubspot-v1", secret, { ...JSON_TYPE, "x-hubspot-signature": of("v1", "hubspot-v1") }, body);
}
{
  // The library takes secrets of 64 characters only.
  const secret = crypto.randomBytes(32).toString("hex");
  const path = "/hooks/contentful";
  const body = JSON.stringify({ sys: { id: "e1" } });
  const headers = { ...JSON_TYPE, "x-contentful-topic": "ContentManagement.Entry.publish" };
  const signed = signRequest(secret, { method: "POST", path, headers: { ...headers }, body });
  add("npm @contentful/node-apps-toolkit", "contentful", secret, { ...headers, ...signed }, body, path);
}
{
  const { publicKey, privateKey } = crypto.generateKeyPairSync("ec", { namedCurve: "P-256" });
  const key = publicKey.export({ format: "der", type: "spki" }).toString("base64");
  const body = JSON.stringify([{ sg_event_id: crypto.randomUUID(), event: "open" }]) + "\r\n";
  const signature = crypto.sign("sha256", Buffer.from(now + body), privateKey).toString("base64");
  const webhook = new eventWebhook.EventWebhook();
  must(webhook.verifySignature(webhook.convertPublicKeyToECDSA(key), body, signature, String(now)), "@sendgrid/eventwebhook");
  const name = "x-twilio-email-event-webhook-";
  add("npm @sendgrid/eventwebhook", "sendgrid", key, { ...JSON_TYPE, [`${name}signature`]: signature, [`${name}timestamp`]: String(now) }, body);
}
{
  const body = JSON.stringify({ destination: "U8", events: [{ type: "message", webhookEventId: crypto.randomUUID() }] });
  const signature = hmac(secret, body);
  must(validateSignature(body, secret, signature), "@line/bot-sdk");
  add("npm @line/bot-sdk", "line", secret, { ...JSON_TYPE, "x-line-signature": signature }, body);
}
{
  const event = { event_id: crypto.randomUUID(), event_type: "transaction.completed", occurred_at: "2026-01-01T00:00:00Z", notification_id: "ntf_1", data: {} };
  const body = JSON.stringify(event);
  const header = `ts=${now};h1=${hex(`${now}:${body}`)}`;
  must(await new Paddle("key").webhooks.isSignatureValid(body, secret, header), "@paddle/paddle-node-sdk");
  add("npm @paddle/paddle-node-sdk", "paddle", secret, { ...JSON_TYPE, "paddle-signature": header }, body);
}
{
  const body = JSON.stringify({ id: crypto.randomUUID(), type: "video.asset.ready" });
  const headers = { ...JSON_TYPE, "mux-signature": `t=${now},v1=${hex(`${now}.${body}`)}` };
  await new Mux({ tokenId: "x", tokenSecret: "x" }).webhooks.verifySignature(body, headers, secret);
  add("npm @mux/mux-node", "mux", secret, headers, body);
}
{
  const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
  const body = JSON.stringify({ type: "invoice.paid", data: {} });
  const id = `msg_${crypto.randomUUID()}`;
  const signature = new Svix(secret).sign(id, new Date(now * 1000), body);
  add("npm svix", "svix", secret, { ...JSON_TYPE, "svix-id": id, "svix-timestamp": String(now), "svix-signature": signature }, body);
}
{
  const body = JSON.stringify({ id: "d1", state: "ready" });
  const token = jwt.sign({ sha256: crypto.createHash("sha256").update(body).digest("hex") }, secret, { issuer: "netlify", noTimestamp: true });
  add("npm jsonwebtoken", "netlify", secret, { ...JSON_TYPE, "x-webhook-signature": token }, body);
}
{
  const body = JSON.stringify({ hello: "world" });
  const digest = `sha-256=:${crypto.createHash("sha256").update(body).digest("base64")}:`;
  const ed25519 = crypto.generateKeyPairSync("ed25519");
  const rsa = crypto.generateKeyPairSync("rsa", { modulusLength: 2048 });
  const shared = crypto.randomBytes(32);
  const pem = ({ publicKey }) => publicKey.export({ format: "pem", type: "spki" });
  // RFC 9421 §3.3.1 wants a salt of 64 bytes; the library's own signer takes the longest that there is.
  const pss = { key: rsa.privateKey, padding: crypto.constants.RSA_PKCS1_PSS_PADDING, saltLength: 64 };
  const keys = [
    ["http-message-signatures-hmac", shared.toString("base64"), createSigner(shared, "hmac-sha256", "k")],
    ["http-message-signatures", pem(ed25519), createSigner(ed25519.privateKey, "ed25519", "k")],
    ["http-message-signatures", pem(rsa), createSigner(rsa.privateKey, "rsa-v1_5-sha256", "k")],
    ["http-message-signatures", pem(rsa), { id: "k", alg: "rsa-pss-sha512", sign: async (data) => crypto.sign("sha512", data, pss) }],
  ];
  for (const [preset, key, signer] of keys) {
    const fields = ["@method", "@target-uri", "content-digest", "content-type"];
    const message = { method: "POST", url: `https://hooks.example/${preset}?x=1`, headers: { ...JSON_TYPE, "content-digest": digest } };
    const signed = await httpbis.signMessage({ key: signer, fields, params: ["created", "keyid", "alg"] }, message);
    add(`npm http-message-signatures ${signer.alg}`, preset, key, signed.headers, body);
  }
}
console.log(JSON.stringify(cases));
