// The events and states in plain words.

export const words: Record<string, string> = {
  accepted: "Accepted and on the disk",
  published: "Published over the channel",
  redelivered: "Published again over the channel",
  ack_timeout: "No acknowledgement in the window",
  channel_lost: "The channel was lost",
  nacked: "Refused by the device",
  push_requested: "Push asked for",
  pushed: "Push accepted by the server",
  push_failed: "Push refused",
  push_retry: "Push failed, to be tried again",
  token_removed: "The registration has ended",
  token_suspended: "The registration is suspended",
  fallback_timeout: "No acknowledgement after the push",
  waiting: "Waiting for the device's return",
  received: "Received by the device",
  displayed: "Shown by the device",
  message_sent: "Message sent",
  message_received: "Message received",
  expired: "Expired",
  superseded: "Superseded by a newer one",
  cancelled: "Cancelled",
  dismissal_sent: "Dismissal sent",
  dismissed: "Taken off the screen",
  read: "Read by its user",
};

export const inWords = (event: string) => words[event] ?? event;

/** sentence ends a message of the API, which may end with a period or not. */
export const sentence = (text: string) => (text.endsWith(".") ? text : `${text}.`);

export type Lane = "channel" | "push" | "both";

const push = new Set(["push_requested", "pushed", "push_failed", "push_retry", "token_removed", "token_suspended", "fallback_timeout"]);
const both = new Set(["accepted", "waiting", "expired", "superseded", "cancelled"]);

/** laneOf is the way that an event belongs to. */
export const laneOf = (event: string): Lane => (push.has(event) ? "push" : both.has(event) ? "both" : "channel");

export type Kind = "good" | "wait" | "bad" | "none";

/** kindOfEvent is how an event looks. */
export function kindOfEvent(event: string): Kind {
  if (["received", "displayed", "read", "message_received", "dismissed"].includes(event)) return "good";
  if (["ack_timeout", "channel_lost", "nacked", "push_retry", "fallback_timeout", "waiting", "superseded", "token_suspended"].includes(event)) return "wait";
  if (["push_failed", "token_removed", "expired", "cancelled"].includes(event)) return "bad";
  return "none";
}

export function kindOfState(state: string): Kind {
  if (state === "acked") return "good";
  if (state === "expired" || state === "cancelled") return "bad";
  return state === "superseded" ? "none" : "wait";
}
