// Prints, as JSON, requests that vendors' own libraries for JavaScript have signed; or, where a library only verifies, that it
// has verified. Each: { library, preset, secret, url, headers, body }.

import crypto from "node:crypto";
import Stripe from "stripe";
import { sign } from "@octokit/webhooks-methods";
import twilio from "twilio";
import { WebhooksHelper } from "square";
import { verifyKey } from "discord-interactions";
import { ApiVersion, LogSeverity, shopifyApi } from "@shopify/shopify-api";
import "@shopify/shopify-api/adapters/node";

const JSON_TYPE = { "content-type": "application/json" };
const cases = [];
const add = (library, preset, secret, headers, body) =>
  cases.push({ library, preset, secret, url: `https://hooks.example/${preset}?x=1`, headers, body });
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
console.log(JSON.stringify(cases));
