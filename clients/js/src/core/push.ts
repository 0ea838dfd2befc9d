// Reads a push: a declarative push message (https://www.w3.org/TR/push-api/#declarative-push-message)
// with Heartline's own object next to the notification.
import type { Dismissal, Pseudo } from "./wire.js";

export interface Push {
  pseudo: Pseudo; // as far as the push carries it
  badge?: number; // for navigator.setAppBadge; 0 clears it
  dismissal?: Dismissal; // take the notification off the screen instead, and show nothing
  options: { body: string; tag: string; silent: boolean; requireInteraction: boolean; image?: string };
}

// Proposed is the notification that a browser hands to the worker where it has read
// the declarative message itself (PushEvent.notification). The worker gets nothing else of
// the message.
export interface Proposed {
  title: string;
  body: string;
  tag: string;
  data?: unknown; // has the ID of a notification whose tag is another
  link?: string;
}

type Fields = Record<string, unknown>;

const fields = (v: unknown): Fields => (typeof v === "object" && v !== null ? (v as Fields) : {});
const text = (v: unknown): string => (typeof v === "string" ? v : "");

// readPush never fails: a push that shows nothing costs the page its subscription.
export function readPush(data: string | undefined, proposed?: Proposed): Push {
  let message: Fields = {};
  try {
    message = fields(JSON.parse(data ?? ""));
  } catch {
    // not JSON: shown as text below
  }
  const n = fields(message["notification"]);
  const ours = { ...fields(fields(proposed?.data)["heartline"]), ...fields(message["heartline"]) };
  const title = text(n["title"]) || proposed?.title || "Notification";
  const body = text(n["body"]) || (proposed?.body ?? (message["notification"] ? "" : (data ?? "")));
  const tag = text(n["tag"]) || proposed?.tag || text(ours["tag"]) || text(ours["id"]);
  const link = text(ours["link"]) || (proposed?.link ?? "");
  const pseudo: Pseudo = {
    id: text(ours["id"]) || tag,
    account: text(ours["account"]),
    title,
    accepted_at: text(ours["accepted_at"]),
    redelivery: false,
    pushed: true,
    has_message: ours["has_message"] === true,
    ack: "received", // the channel's copy says which one the sender waits for
    tag,
    ...(body ? { body } : {}),
    ...(link ? { link } : {}),
  };
  for (const name of ["subtitle", "sound", "category", "thread"] as const) {
    if (text(ours[name])) pseudo[name] = text(ours[name]);
  }
  if (typeof ours["extra"] === "object" && ours["extra"] !== null) pseudo.extra = ours["extra"] as Record<string, unknown>;
  const dismissed = ours["dismiss"] === true && pseudo.id !== "";
  const count = Number((dismissed ? ours["badge"] : n["app_badge"]) ?? Number.NaN);
  const badge = Number.isInteger(count) && count >= 0 ? { badge: count } : {};
  const image = text(n["image"]);
  return {
    pseudo,
    ...(dismissed ? { dismissal: { id: pseudo.id, tag, ...badge } } : {}),
    ...badge,
    options: { body, tag, silent: n["silent"] === true, requireInteraction: n["requireInteraction"] === true, ...(image ? { image } : {}) },
  };
}

/** The data of an FCM message of Heartline: a notification (style `data`), or a dismissal. */
export type FCM = { pseudo: Pseudo } | { dismissal: Dismissal } | undefined;

/** Reads the data of an FCM message; undefined if it is none of Heartline's. */
export function readFCM(data: Record<string, unknown> | undefined): FCM {
  let ours: Fields;
  try {
    ours = fields(JSON.parse(text(data?.["heartline"])));
  } catch {
    return undefined;
  }
  const id = text(ours["id"]);
  if (!id) return undefined;
  if (ours["dismiss"] === true) return { dismissal: ours as unknown as Dismissal };
  return { pseudo: { redelivery: false, pushed: true, has_message: false, ack: "received", ...ours } as unknown as Pseudo };
}
