// What goes over the wire: contract §3, docs/clients.md.

export interface Pseudo {
  id: string;
  account: string;
  title?: string;
  body?: string;
  badge?: number;
  sound?: string;
  category?: string;
  accepted_at: string;
  redelivery: boolean;
  pushed: boolean;
  has_message: boolean;
  ack: "received" | "displayed";
  tag?: string;
  subtitle?: string;
  thread?: string;
  link?: string;
  image?: string;
  level?: "passive" | "time-sensitive" | "critical";
  extra?: Record<string, unknown>;
}

export interface Dismissal {
  id: string;
}

export interface Message {
  id: string;
  account: string;
  data: unknown;
  accepted_at: string;
}

export type AppState = "foreground" | "background";

// AckStatus: "displayed" is for a person who could see it, "read" for one who has
// opened it; the account's other devices then take it off their screens.
export type AckStatus = "received" | "displayed" | "read";

// PushToken is one registration with one notification server; null removes the
// server's registrations. webpush is PushSubscription.toJSON() unchanged.
export type PushToken =
  | { apns: { token: string; topic?: string; environment?: string } | null }
  | { webpush: unknown };

export function topics(prefix: string, device: string) {
  const own = `${prefix}/devices/${device}/`;
  return {
    notifications: own + "notifications",
    messages: own + "messages",
    acks: own + "acks",
    state: own + "state",
    pushToken: own + "push-token",
    dismissals: own + "dismissals",
    signOut: own + "sign-out",
  };
}
