// A backend on the client that @hey-api/openapi-ts generates.
import { client } from "./hey/client.gen.js";
import { notify, notifyBatch } from "./hey/sdk.gen.js";

client.setConfig({ baseUrl: process.env.HEARTLINE_SERVER!, auth: () => process.env.HEARTLINE_TOKEN! });
const { data, error } = await notify({ body: { account: "alice", title: "One", id: "h-1" } });
if (!data) throw new Error(error?.detail);
console.log(data.id, data.deliveries.map((d) => d.device).join());
const refused = await notify({ body: { account: "nobody", title: "Two" } });
if (refused.error?.code !== "unknown_account") throw new Error(`code ${refused.error?.code}`);
const batch = await notifyBatch({ body: [{ account: "alice", title: "Three", id: "h-3", ttl: "1h", ack_window: 0 }], headers: { "Content-Type": "application/json" } });
if (!Array.isArray(batch.data)) throw new Error("the batch has no array of results");
console.log(batch.data.map((r) => r.status).join());
