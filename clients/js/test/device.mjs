// A device on MQTT.js as its documentation has it, for the test of the wire
// contract: node device.mjs URL VERSION ACCOUNT DEVICE. It prints what it receives,
// a JSON object a line, and publishes what it is told to on standard input.
import mqtt from "mqtt";
import { createInterface } from "node:readline";

const [url, version, username, clientId] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));

const client = mqtt.connect(url, {
  protocolVersion: Number(version), clientId, username, clean: false, keepalive: 5,
  ...(version === "5" ? { properties: { sessionExpiryInterval: 3600 } } : {}),
});
client.on("message", (topic, payload) => say({ topic, payload: payload.toString() }));
client.on("error", (err) => { console.error(err); process.exit(1); });
client.on("connect", async () => {
  const own = `heartline/devices/${clientId}/`;
  await client.subscribeAsync([own + "notifications", own + "messages"], { qos: 1 });
  say({ topic: "", payload: "subscribed" });
});

for await (const line of createInterface({ input: process.stdin })) {
  const { topic, payload } = JSON.parse(line);
  await client.publishAsync(topic, payload, { qos: 1 });
  say({ topic, payload });
}
await client.endAsync();
