// A backend on openapi-typescript and openapi-fetch. It compiles only if the document
// says what answers hold.
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const api = createClient<paths>({ baseUrl: process.env.HEARTLINE_SERVER!, headers: { Authorization: `Bearer ${process.env.HEARTLINE_TOKEN}` } });
await api.PUT("/v1/accounts/{account}/devices/{device}", { params: { path: { account: "alice", device: "phone" } }, body: {} });
const { data, error } = await api.POST("/v1/notifications", { body: { account: "alice", title: "One", id: "f-1" } });
if (error) throw new Error(error.detail);
console.log(data.id, data.deliveries.map((d) => d.device).join());
const refused = await api.POST("/v1/notifications", { body: { account: "nobody", title: "Two" } });
if (refused.error?.code !== "unknown_account") throw new Error(`code ${refused.error?.code}`);
const batch = await api.POST("/v1/notifications/batch", { body: [{ account: "alice", title: "Three", id: "f-3", ttl: 0 }], headers: { "Content-Type": "application/json" } });
if (!Array.isArray(batch.data)) throw new Error("the batch has no array of results");
console.log(batch.data.map((r) => r.status).join());
